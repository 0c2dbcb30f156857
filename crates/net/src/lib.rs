//! Remoting over TCP: the readiness loop, its connections, request routing, a blocking client.
//!
//! The loop works in turns: read every ready socket, decode every frame, run every handler, end
//! the turn of the service (one group commit), write every answer with one system call per
//! connection. This crate knows the wire, not brokers.

pub mod client;
mod conn;
pub mod peer;
pub mod reactor;
pub mod router;

pub use peer::Peer;
pub use reactor::{Bound, Handle, Limits, Service};
pub use router::{Call, Class, Handled, Refusal, Reply, Router};
