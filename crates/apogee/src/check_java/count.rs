//! Counts what is taken over: messages, and what waits inside of the broker.

use std::path::Path;

use anyhow::Result;
use store::TimerFiles;
use store::disk::Disk;
use wire::json::Value;

use super::Report;
use super::look::{self, Item, Log, Waits, config, entries};

const HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
const OP: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
const TRANSACTIONS: &str = "CID_RMQ_SYS_TRANS";

/// The end of the log and every count that needs records.
pub(super) fn count(root: &Path, log: &Log, report: &mut Report) -> Result<()> {
    let log_min = log.files.first().map_or(0, |file| file.start);
    let (mut messages, mut queues, mut newest) = (0, 0, None::<Item>);
    for (topic, ids) in look::queues(root, "consumequeue")? {
        for id in ids {
            queues += 1;
            entries(root, (&topic, id), 0, log_min, |item| {
                messages += 1;
                if newest.is_none_or(|newest| newest.physical < item.physical) {
                    newest = Some(item);
                }
            })?;
        }
    }
    let batch: usize =
        look::queues(root, "batchconsumequeue")?.iter().map(|(_, ids)| ids.len()).sum();
    let known = newest.map_or(log_min, |item| item.physical + item.size);
    let end = log.end_from(known);
    report.counts.push(("queues", queues));
    report.counts.push(("batch queues", batch as i64));
    report.counts.push(("messages in queues, those of the broker's own included", messages));
    report.counts.push(("bytes of commit log", end - log_min));
    report.counts.push(("log files", log.files.len() as i64));
    if queues == 0 && end > log_min {
        report.warnings.push(
            "there are no consume queues: they are made anew from the commit log, and what waits \
             is not counted here"
                .into(),
        );
    }
    if let Some(item) = newest.filter(|item| log.at(item.physical, |_| ()).is_none()) {
        report.warnings.push(format!(
            "the queues name a record at {} that is not in the log: the queues are made anew",
            item.physical
        ));
    }
    levels(root, log_min, report)?;
    timers(root, log, log_min, report)?;
    transactions(root, log, log_min, report)
}

fn saved_offset(file: Option<&Value>, key: &str, queue: i64) -> i64 {
    let queues = file.and_then(|file| file.get("offsetTable")).and_then(|table| table.get(key));
    let queues = queues.map_or(&[][..], Value::pairs);
    let found = queues.iter().find(|(id, _)| id.int() == Some(queue));
    found.and_then(|(_, offset)| offset.int()).unwrap_or(0)
}

fn levels(root: &Path, log_min: i64, report: &mut Report) -> Result<()> {
    let file = config(root, "delayOffset.json").unwrap_or_default();
    let table = file.as_ref().and_then(|file| file.get("offsetTable"));
    let mut pending = 0;
    for (topic, ids) in look::queues(root, "consumequeue")? {
        for id in ids.into_iter().filter(|_| topic == store::SCHEDULE_TOPIC) {
            let saved = table.map_or(&[][..], Value::pairs).iter();
            let saved = saved.clone().find(|(level, _)| level.int() == Some(i64::from(id) + 1));
            let from = saved.and_then(|(_, offset)| offset.int()).unwrap_or(0);
            entries(root, (&topic, id), from, log_min, |_| pending += 1)?;
        }
    }
    report.counts.push(("messages that wait in delay levels", pending));
    Ok(())
}

fn timers(root: &Path, log: &Log, log_min: i64, report: &mut Report) -> Result<()> {
    let check = TimerFiles::new(&Disk::default(), root).check();
    let (mut messages, mut recalls, mut popped) = (0, 0, 0);
    entries(root, (store::TIMER_TOPIC, 0), 0, log_min, |item| {
        let found = log.at(item.physical, look::timer).flatten();
        let Some((out_ms, waits)) = found else { return };
        if check.is_some_and(|check| check.passed(item.offset, out_ms)) {
            return;
        }
        match waits {
            Waits::Message => messages += 1,
            Waits::Recall => recalls += 1,
            Waits::Popped => popped += 1,
            Waits::Acknowledgement => {}
        }
    })?;
    let offsets = config(root, "consumerOffset.json").unwrap_or_default();
    for (topic, ids) in look::queues(root, "consumequeue")? {
        for id in ids.into_iter().filter(|_| topic.starts_with("rmq_sys_REVIVE_LOG_")) {
            let key = format!("{topic}@CID_RMQ_SYS_REVIVE_GROUP");
            let from = saved_offset(offsets.as_ref(), &key, i64::from(id));
            entries(root, (&topic, id), from, log_min, |_| popped += 1)?;
        }
    }
    report.counts.push(("messages that wait for a time", messages));
    report.counts.push(("recalls that wait", recalls));
    report.counts.push(("check points of popped messages", popped));
    Ok(())
}

fn transactions(root: &Path, log: &Log, log_min: i64, report: &mut Report) -> Result<()> {
    let offsets = config(root, "consumerOffset.json").unwrap_or_default();
    let from = |topic: &str| saved_offset(offsets.as_ref(), &format!("{topic}@{TRANSACTIONS}"), 0);
    let mut ops = Vec::new();
    entries(root, (OP, 0), from(OP), log_min, |item| ops.push(item))?;
    let ended = look::marked(log, &ops);
    let mut open = 0;
    entries(root, (HALF, 0), from(HALF), log_min, |item| {
        open += i64::from(!ended.contains(&item.offset));
    })?;
    report.counts.push(("open transactions", open));
    Ok(())
}
