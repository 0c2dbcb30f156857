//! The readiness loop, connections, request routing and the blocking client.
