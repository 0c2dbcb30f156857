//! Runtime figures and the tables that slaves and tools copy: 28, 43, 45, 60, 61.
//! Java: `AdminBrokerProcessor.prepareRuntimeInfo`, `StoreStatsService`.

use std::collections::BTreeMap;

use std::sync::atomic::Ordering;

use net::{Call, Handled};
use store::{At, Wait};
use wire::body::Member;
use wire::codes::{VERSION, VERSION_NAME};
use wire::json::object;
use wire::record::{self, Scanned};

use crate::state::Broker;
use crate::turn::Turn;

/// 28: the runtime table. Every value is text; consoles and scripts parse these names.
pub fn runtime_info(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let table = runtime_table(&turn.broker, turn.now_ms);
    let body = object([("table", table.write())]);
    call.ok_body(body.to_text().as_bytes())
}

fn runtime_table(broker: &Broker, now_ms: i64) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    let mut put = |name: &str, value: String| {
        table.insert(name.to_owned(), value);
    };
    put("brokerActive", "true".into());
    put("brokerVersion", VERSION.to_string());
    put("brokerVersionDesc", VERSION_NAME.into());
    put("apogeeVersion", env!("CARGO_PKG_VERSION").into());
    put("bootTimestamp", broker.boot_ms.to_string());
    put("runtime", java_runtime(now_ms - broker.boot_ms));
    put("startAcceptSendRequestTimeStamp", "0".into());
    put("clientQuestions", broker.relays.count().to_string());
    put("openTransactions", broker.transactions.count().to_string());
    message_figures(broker, now_ms, &mut put);
    store_figures(broker, &mut put);
    waiting_figures(broker, &mut put);
    table
}

/// Messages put and got. Java: `BrokerStats`, `StoreStatsService`.
fn message_figures(broker: &Broker, now_ms: i64, put: &mut impl FnMut(&str, String)) {
    let stats = &broker.stats;
    let (days, puts, gets) = (stats.days(), stats.user_puts.totals(), stats.user_gets.totals());
    put("msgPutTotalYesterdayMorning", days.yesterday.0.to_string());
    put("msgPutTotalTodayMorning", days.today.0.to_string());
    put("msgPutTotalTodayNow", puts.messages.to_string());
    put("msgGetTotalYesterdayMorning", days.yesterday.1.to_string());
    put("msgGetTotalTodayMorning", days.today.1.to_string());
    put("msgGetTotalTodayNow", gets.messages.to_string());
    put("putMessageTimesTotal", stats.puts.total().to_string());
    put("putMessageFailedTimes", stats.puts_failed.total().to_string());
    put("putMessageSizeTotal", stats.put_bytes.total().to_string());
    let average = stats.put_bytes.total() as f64 / stats.puts.total().max(1) as f64;
    put("putMessageAverageSize", format!("{average:?}"));
    put("putTps", stats.puts.three(now_ms));
    put("getFoundTps", stats.gets_found.three(now_ms));
    put("getMissTps", stats.gets_missed.three(now_ms));
    let total = |seconds| {
        stats.gets_found.per_second(now_ms, seconds) + stats.gets_missed.per_second(now_ms, seconds)
    };
    put("getTotalTps", format!("{:?} {:?} {:?}", total(10), total(60), total(600)));
    put("getTransferredTps", stats.gets.three(now_ms));
}

/// The log and its disk.
fn store_figures(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    let marks = broker.store.watermarks();
    let disk = Disk::of(&broker.config().store_path_root_dir);
    put("earliestMessageTimeStamp", earliest_ms(broker).unwrap_or(-1).to_string());
    put("dispatchBehindBytes", "0".into());
    put("dispatchMaxBuffer", "0".into());
    put("pageCacheLockTimeMills", "0".into());
    put("commitLogMinOffset", marks.min.to_string());
    put("commitLogMaxOffset", marks.written.to_string());
    put("retentionDecision", broker.store.retention_decision());
    put("popJournalBytes", broker.pops.journal_bytes().to_string());
    put("popInFlight", broker.pops.in_flight().to_string());
    put("popWaiting", broker.pops.parked.load(Ordering::Relaxed).to_string());
    put("remainHowManyDataToFlush", format!("{} B", marks.written - marks.flushed));
    put("remainTransientStoreBufferNumbs", i32::MAX.to_string());
    put("commitLogDiskRatio", format!("{:?}", disk.used_ratio));
    put("consumeQueueDiskRatio", format!("{:?}", disk.used_ratio));
    let room = format!("Total : {}, Free : {}.", readable(disk.total), readable(disk.free));
    put("commitLogDirCapacity", room);
}

/// What waits: for room, for the disk, for its time.
fn waiting_figures(broker: &Broker, put: &mut impl FnMut(&str, String)) {
    let config = broker.config();
    let (parked, flushing) = broker.waiting();
    put("sendThreadPoolQueueSize", flushing.to_string());
    put("sendThreadPoolQueueCapacity", config.send_thread_pool_queue_capacity.to_string());
    put("pullThreadPoolQueueSize", parked.to_string());
    put("pullThreadPoolQueueCapacity", config.pull_thread_pool_queue_capacity.to_string());
    // These wait in no queue of their own here.
    for (pool, capacity) in [("litePull", "100000"), ("query", "20000"), ("ack", "100000")] {
        put(&format!("{pool}ThreadPoolQueueSize"), "0".into());
        put(&format!("{pool}ThreadPoolQueueCapacity"), capacity.into());
    }
    put("EndTransactionQueueSize", "0".into());
    put("EndTransactionThreadPoolQueueCapacity", "100000".into());
    for pool in ["send", "pull", "litePull", "query", "ack"] {
        put(&format!("{pool}ThreadPoolQueueHeadWaitTimeMills"), "0".into());
    }
    // Timers are known as soon as they are stored and are delivered on time: nothing is behind.
    put("pendingTimers", broker.timers.count().to_string());
    put("timerReadBehind", "0".into());
    put("timerOffsetBehind", "0".into());
    put("timerCongestNum", broker.timers.count().to_string());
    put("timerEnqueueTps", "0.0".into());
    put("timerDequeueTps", "0.0".into());
    for (level, (offset, max)) in broker.schedule.offsets().into_iter().enumerate() {
        if max > 0 {
            put(&format!("scheduleMessageOffset_{}", level + 1), format!("{offset},{max}"));
        }
    }
}

/// Store time of the oldest message in the log.
fn earliest_ms(broker: &Broker) -> Option<i64> {
    let mut bytes = Vec::new();
    let oldest = broker.store.watermarks().min;
    if broker.store.at(oldest, Wait::MayBlock, &mut bytes) != At::Found {
        return None;
    }
    match record::scan(&bytes) {
        Ok(Scanned::Record(record)) => Some(record.store_timestamp()),
        _ => None,
    }
}

/// Room on the disk of the store.
struct Disk {
    total: u64,
    free: u64,
    used_ratio: f64,
}

impl Disk {
    /// As Java and `df` count: blocks kept for root are free, but not usable.
    fn of(path: &str) -> Disk {
        let Ok(fs) = rustix::fs::statvfs(path) else {
            return Disk { total: 0, free: 0, used_ratio: -1.0 };
        };
        let used = fs.f_blocks.saturating_sub(fs.f_bfree);
        let percent = (used * 100).div_ceil((used + fs.f_bavail).max(1));
        Disk {
            total: fs.f_blocks * fs.f_frsize,
            free: fs.f_bfree * fs.f_frsize,
            used_ratio: percent as f64 / 100.0,
        }
    }
}

/// Java's text of a duration.
fn java_runtime(ms: i64) -> String {
    let seconds = ms / 1000;
    format!(
        "[ {} days, {} hours, {} minutes, {} seconds ]",
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A byte count as Java's tools show it.
fn readable(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// 43: all committed offsets.
pub fn all_offsets(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    call.ok_body(turn.broker.offsets.body().to_text().as_bytes())
}

/// 45: progress of the delay levels.
pub fn delay_offsets(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    call.ok_body(turn.broker.schedule.body().to_text().as_bytes())
}

/// 61: how many messages of each topic wait for their time.
pub fn timer_metrics(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    call.ok_body(turn.broker.timers.metrics.body().to_text().as_bytes())
}

/// 60: how far the timers are, for slaves: seven big-endian numbers. Java:
/// `TimerCheckpoint.encode`.
pub fn timer_check_point(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let end = turn.broker.timers.end();
    // Read up to this second; no timer log; all of the queue; the version is not kept.
    let numbers = [turn.now_ms / 1000 * 1000, 0, end, end, 0, 0, 0];
    let body: Vec<u8> = numbers.iter().flat_map(|number: &i64| number.to_be_bytes()).collect();
    call.ok_body(&body)
}
