//! What the server's process spent: processor time and context switches, from the kernel.

use std::fs;

use anyhow::{Context, Result};

/// Figures of a process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time in microseconds.
    pub(crate) cpu_us: u64,
    /// Voluntary and other switches of all threads.
    pub(crate) switches: u64,
}

/// Reads the figures of a process.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("no such process")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let mut usage = Usage { cpu_us: (ticks(12) + ticks(13)) * 10_000, ..Usage::default() };
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        usage.switches += number_after(&status, "voluntary_ctxt_switches:");
    }
    Ok(usage)
}

/// Adds up the numbers of all lines that end their name with `name`.
fn number_after(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(name));
    lines.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

impl Usage {
    /// What was spent since `before`.
    pub(crate) fn since(&self, before: &Usage) -> Usage {
        Usage {
            cpu_us: self.cpu_us - before.cpu_us,
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}
