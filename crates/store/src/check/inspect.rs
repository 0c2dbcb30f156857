//! What a store holds, without reading all of it: topics, queues, groups, single records.

use std::io;

use wire::json::Value;
use wire::record::Record;

use super::span::Files;
use super::{Ground, texts};
use crate::api::{OpenError, SCHEDULE_TOPIC, StoreConfig, TIMER_TOPIC};
use crate::batch_queue::UNIT as BATCH_UNIT;
use crate::commit_log::CommitLog;
use crate::config_file;
use crate::files;
use crate::queue_files::{UNIT, sub_dirs};
use crate::scan::{Scanner, Step};

/// Topic of half messages. Java: `TopicValidator.RMQ_SYS_TRANS_HALF_TOPIC`.
const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Groups whose progress says what of a system topic is settled.
const HALF_GROUP: &str = "CID_RMQ_SYS_TRANS";
const TIMER_GROUP: &str = "CID_RMQ_SYS_APOGEE_TIMER";

/// A store at a glance.
#[derive(Debug, Clone)]
pub struct Overview {
    /// Whether the last user stopped cleanly.
    pub clean: bool,
    /// Whether this program wrote the checkpoint; else a Java broker did, or nobody.
    pub own: bool,
    /// Log files, and bytes of one.
    pub files: (usize, u64),
    /// Start of the oldest log file, and the end behind the last record.
    pub log: (i64, i64),
    /// Store time of the first and of the last record, epoch milliseconds; 0 without.
    pub times: (i64, i64),
    /// By name.
    pub topics: Vec<TopicSpan>,
    /// Consumer groups, with the number of topics that they have progress in.
    pub groups: Vec<(String, usize)>,
    /// What waits in system topics, at most: name and number of messages.
    pub pending: Vec<(String, i64)>,
}

/// A topic and its queues.
#[derive(Debug, Clone)]
pub struct TopicSpan {
    /// Its name.
    pub name: String,
    /// By number.
    pub queues: Vec<QueueSpan>,
}

/// What the files of a queue hold. After a kill the newest messages may be in the log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSpan {
    /// Its number.
    pub id: i32,
    /// Whether it is a batch queue.
    pub batch: bool,
    /// First queue offset whose record is in the log.
    pub min: i64,
    /// Behind the last queue offset.
    pub max: i64,
}

/// One record, or why there is none.
#[derive(Debug, Clone)]
pub struct Found {
    /// The queue offset asked for, if it was.
    pub offset: Option<i64>,
    /// Where it is in the log.
    pub physical: i64,
    /// Its bytes, which `wire::record::scan` reads; or what is wrong.
    pub record: Result<Vec<u8>, String>,
}

fn open(config: &StoreConfig) -> Result<CommitLog, OpenError> {
    let mut listed = files::found(&config.disk, &config.commit_log_dir)?.unwrap_or_default();
    files::pop_empty(&mut listed);
    files::common_size(&listed)?;
    CommitLog::of_files(config, listed)
}

/// Tells what there is. Errors: what is there cannot be understood or read.
pub fn inspect(config: &StoreConfig) -> Result<Overview, OpenError> {
    let ground = Ground::of(config);
    let log = open(config)?;
    let (end, times) = end_of(&ground, &log).map_err(OpenError::io(&config.root))?;
    let mut topics: Vec<TopicSpan> = Vec::new();
    for (name, unit) in [("consumequeue", UNIT), ("batchconsumequeue", BATCH_UNIT as i64)] {
        let dir = config.root.join(name);
        for (topic, topic_dir) in sub_dirs(&config.disk, &dir).map_err(OpenError::io(&dir))? {
            let mut queues = Vec::new();
            let found = sub_dirs(&config.disk, &topic_dir).map_err(OpenError::io(&topic_dir))?;
            for (id, path) in found {
                let Ok(id) = id.parse() else { continue };
                let mut files = Files::of(&config.disk, &path, unit)?;
                let span = files.offsets(&config.disk, log.min()).map_err(OpenError::io(&path))?;
                queues.push(QueueSpan { id, batch: unit != UNIT, min: span.0, max: span.1 });
            }
            queues.sort_by_key(|queue| queue.id);
            topics.push(TopicSpan { name: topic, queues });
        }
    }
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Overview {
        clean: ground.clean,
        own: ground.checkpoint.exact,
        files: (log.segments().len(), log.file_size() as u64),
        log: (log.min(), end),
        times,
        groups: groups(config),
        pending: pending(config, &topics),
        topics,
    })
}

/// The end of the log, and the times of its first and last record.
fn end_of(ground: &Ground, log: &CommitLog) -> io::Result<(i64, (i64, i64))> {
    let mut scanner = Scanner::new(log);
    let mut from = log.min();
    let mut first = 0;
    for segment in log.segments() {
        if let Step::Record(record) = scanner.step(segment.start)? {
            from = segment.start;
            first = if first == 0 { record.store_timestamp() } else { first };
        }
    }
    let known = ground.checkpoint.logics_offset;
    if known > from && matches!(scanner.step(known)?, Step::Record(_)) {
        from = known;
    }
    let (mut at, mut end, mut last) = (from, from, first);
    loop {
        match scanner.step(at)? {
            Step::Record(record) => {
                at += record.total_len() as i64;
                (end, last) = (at, record.store_timestamp());
            }
            Step::Blank(next) => at = next,
            Step::Bad => match scanner.resume(at)? {
                Some(next) => at = next,
                None => return Ok((end, (first, last))),
            },
            Step::NoFile => return Ok((end, (first, last))),
        }
    }
}

fn config_text(config: &StoreConfig, name: &str) -> Option<Value> {
    config_file::look(&config.disk, &config.root.join("config").join(name), Value::parse)
}

/// Groups that are configured or have progress.
fn groups(config: &StoreConfig) -> Vec<(String, usize)> {
    let mut groups = std::collections::BTreeMap::new();
    let known = config_text(config, "subscriptionGroup.json");
    let known = known.as_ref().and_then(|file| file.get("subscriptionGroupTable"));
    for (name, _) in known.map_or(&[][..], Value::pairs) {
        groups.insert(name.text().unwrap_or_default(), 0);
    }
    let progress = config_text(config, "consumerOffset.json");
    let progress = progress.as_ref().and_then(|file| file.get("offsetTable"));
    for (name, _) in progress.map_or(&[][..], Value::pairs) {
        if let Some((_, group)) = name.as_text().and_then(|name| name.split_once('@')) {
            *groups.entry(group.to_owned()).or_default() += 1;
        }
    }
    groups.into_iter().collect()
}

/// Messages of system topics behind what is settled of them.
fn pending(config: &StoreConfig, topics: &[TopicSpan]) -> Vec<(String, i64)> {
    let number = |file: Option<&Value>, table: &str, key: &str, id: Option<i32>| {
        let of = |value: &Value, key: &str| {
            let named = |name: &Value| name.text().as_deref() == Some(key);
            value.pairs().iter().find(|(name, _)| named(name)).map(|(_, value)| value.clone())
        };
        let value = of(file?.get(table)?, key)?;
        id.map_or(Some(value.clone()), |id| of(&value, &id.to_string()))?.int()
    };
    let delays = config_text(config, "delayOffset.json");
    let offsets = config_text(config, "consumerOffset.json");
    let mut pending = Vec::new();
    for topic in topics {
        for queue in &topic.queues {
            let (name, done) = match topic.name.as_str() {
                SCHEDULE_TOPIC => {
                    let level = (queue.id + 1).to_string();
                    let done = number(delays.as_ref(), "offsetTable", &level, None);
                    (format!("delay level {level}"), done)
                }
                TIMER_TOPIC | HALF_TOPIC if queue.id == 0 => {
                    let timer = topic.name == TIMER_TOPIC;
                    let group = if timer { TIMER_GROUP } else { HALF_GROUP };
                    let key = format!("{}@{group}", topic.name);
                    let done = number(offsets.as_ref(), "offsetTable", &key, Some(0));
                    (if timer { "timers" } else { "half messages" }.to_owned(), done)
                }
                _ => continue,
            };
            pending.push((name, queue.max - done.unwrap_or(queue.min).max(queue.min)));
        }
    }
    pending
}

/// Up to `max` records of a queue from an offset on. Errors: the queue is not there, or cannot be
/// read.
pub fn at_offset(
    config: &StoreConfig,
    (topic, id): (&str, i32),
    offset: Option<i64>,
    max: usize,
) -> Result<Vec<Found>, OpenError> {
    let log = open(config)?;
    let batch = texts::batch_topics(&config.disk, &config.root)?.contains(topic);
    let (kind, unit) = match batch {
        true => ("batchconsumequeue", BATCH_UNIT as i64),
        false => ("consumequeue", UNIT),
    };
    let dir = config.root.join(kind).join(topic).join(id.to_string());
    let mut files = Files::of(&config.disk, &dir, unit)?;
    if files.is_empty() {
        let reason = "no such queue is in the store, or its messages are in the log only".into();
        return Err(OpenError::Layout { path: dir, reason });
    }
    let io = OpenError::io(&dir);
    let mut scanner = Scanner::new(&log);
    let places = files.places(&config.disk, (log.min(), offset), max).map_err(io)?;
    let mut found = Vec::new();
    for (offset, physical) in places {
        let record = match physical {
            Some(at) => read(&mut scanner, at).map_err(OpenError::io(&config.root))?,
            None => Err("the queue has no entry there".to_owned()),
        };
        let physical = physical.unwrap_or(-1);
        found.push(Found { offset: Some(offset), physical, record });
    }
    Ok(found)
}

/// The record at a place in the log.
pub fn at_physical(config: &StoreConfig, physical: i64) -> Result<Found, OpenError> {
    let log = open(config)?;
    let mut scanner = Scanner::new(&log);
    let io = OpenError::io(&config.root);
    let mut record = Err(format!("the log begins at {}", log.min()));
    if physical >= log.min() {
        record = read(&mut scanner, physical).map_err(io)?;
        if record.is_err() {
            let next = scanner.resume(physical).map_err(OpenError::io(&config.root))?;
            let next = next.map_or("nor behind it".to_owned(), |at| format!("the next is at {at}"));
            record = Err(format!("no record begins there; {next}"));
        }
    }
    Ok(Found { offset: None, physical, record })
}

fn read(scanner: &mut Scanner<'_>, at: i64) -> io::Result<Result<Vec<u8>, String>> {
    Ok(match scanner.step(at)? {
        Step::Record(record) => Ok(Record::bytes(&record).to_vec()),
        Step::NoFile => Err("the log does not reach there".to_owned()),
        _ => Err("there is no good record".to_owned()),
    })
}
