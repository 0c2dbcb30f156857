//! What the unit tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use wire::properties::Known;
use wire::record::{INNER_BATCH, NewRecord};

use crate::api::{AppendRefused, Appended};
use crate::store::{Queue, Store};

/// Appends and commits one message; a failed commit panics.
pub(crate) fn send(
    store: &Store,
    topic: &str,
    queue_id: i32,
    body: &[u8],
) -> Result<Appended, AppendRefused> {
    let queue = store.queue_or_create(topic, queue_id);
    let appended = store.append(&queue, &record(&queue, body), &Known::default())?;
    store.commit().expect("commit");
    Ok(appended)
}

/// Appends and commits an inner batch of `count` messages.
pub(crate) fn send_inner(store: &Store, queue: &Arc<Queue>, len: usize, count: i16) {
    let body = vec![1; len];
    let new = record(queue, &body);
    let text = format!("INNER_NUM\u{1}{count}\u{2}");
    let new = NewRecord { sys_flag: INNER_BATCH, properties: &text, ..new };
    store.append_inner_batch(queue, &new, &Known::default(), count).expect("append");
    store.commit().expect("commit");
}

fn record<'a>(queue: &'a Queue, body: &'a [u8]) -> NewRecord<'a> {
    let host = "127.0.0.1:1".parse().expect("host");
    NewRecord {
        topic: queue.topic(),
        queue_id: queue.id(),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_offset: 0,
        body,
        body_crc: wire::text::crc31(body),
        properties: "",
    }
}

/// A directory that is removed with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir()
            .join(format!("apogee-store-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        TempDir(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
