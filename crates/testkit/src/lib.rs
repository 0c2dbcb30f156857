//! Starts real processes for tests and waits for what they promise.
