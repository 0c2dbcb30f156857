//! Appending and committing allocate nothing once the buffers have their size.
#![allow(unsafe_code)] // the counting allocator below, which only this test uses
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use base::clock::Clock;
use common::*;
use store::StoreConfig;
use wire::properties::Known;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches a plain cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn append_commit_and_fetch_allocate_nothing() {
    let dir = TempDir::new("allocations");
    let config = StoreConfig { commit_log_file_size: 64 << 20, ..StoreConfig::new(dir.path()) };
    let store = open(config, &Clock::system());
    let queue = store.queue_or_create("T", 0);
    let body = [7; 1024];
    let text = "UNIQ_KEY\u{1}0123456789\u{2}KEYS\u{1}a b\u{2}TAGS\u{1}t\u{2}";
    let mut out = Vec::with_capacity(1 << 20);
    let mut turn = || {
        for _ in 0..32 {
            let record = record(&queue, &body, text);
            store.append(&queue, &record, &Known::scan(text)).unwrap();
        }
        store.commit().unwrap();
        out.clear();
        let mut any = |_: &store::Entry| true;
        let limit = store::ReadLimit { max_messages: 32, max_bytes: 1 << 20 };
        let from = queue.next_offset() - 32;
        let wait = store::Wait::OnlyCached;
        assert_eq!(store.get(&queue, from, limit, wait, &mut any, &mut out).messages, 32);
    };
    // Buffers grow until they have their size; after that there is nothing.
    let mut rounds = (0..30).map(|_| {
        let before = COUNT.with(Cell::get);
        (0..300).for_each(|_| turn());
        COUNT.with(Cell::get) - before
    });
    assert!(rounds.any(|allocations| allocations == 0), "every 9600 messages allocate");
}
