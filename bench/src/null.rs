//! A server that answers every request with the same success: the tool's own ceiling.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use net::{Bound, Call, Limits, Service};
use wire::requests::SendMessageAnswer;

struct Null(i64);

impl Service for Null {
    fn request(&mut self, call: &mut Call<'_>) {
        self.0 += 1;
        let fields = SendMessageAnswer {
            msg_id: "7F00000100002A9F0000000000000000",
            queue_id: 0,
            queue_offset: self.0,
            transaction_id: None,
            batch_uniq_id: None,
            recall_handle: None,
            region: "DefaultRegion",
            trace_on: "true",
        };
        let answered = call.ok(&fields);
        debug_assert!(answered.is_ok());
    }
}

/// Serves until it is killed.
pub(crate) fn run(listen: SocketAddr) -> Result<()> {
    let clock = base::clock::Clock::system();
    let handle = Bound::bind(listen)?.serve("null", Limits::default(), clock, 1, |_| Null(0))?;
    println!("null server ready on {}", handle.local);
    let alive = Arc::new(handle);
    while alive.is_alive() {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    Ok(())
}
