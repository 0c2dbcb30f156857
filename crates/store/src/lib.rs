//! Commit log, consume queues and index in Java's layout.
