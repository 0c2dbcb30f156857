//! The name server: which broker has which topic. Name servers do not know each other.
//!
//! [`routes::Routes`] is the state, stepped by explicit times and without I/O. [`Namesrv`] puts one
//! lock around it, adds the KV configuration with its file, and serves the requests.

pub mod config;
mod handlers;
pub mod kv;
pub mod routes;
mod server;

pub use config::NamesrvConfig;
pub use server::{Namesrv, NamesrvServer, start};
