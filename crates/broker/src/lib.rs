//! The broker: requests, topics, groups, offsets, long polling, retry, delay levels.
//!
//! Handlers are synchronous functions that run to completion on the loop of their connection
//! ([`turn::Turn`]); what has to wait hangs on the thing that it waits for.

pub mod assignment;
pub mod attributes;
pub mod back_off;
pub mod clients;
pub mod config;
mod config_keys;
pub mod groups;
pub mod handlers;
pub mod locks;
pub mod marks;
pub mod metrics;
pub mod offsets;
pub mod pop;
pub mod put;
pub mod readers;
pub mod reading;
pub mod register;
pub mod reply;
pub mod saved;
pub mod schedule;
pub mod server;
pub mod state;
pub mod stats;
pub mod timer_metrics;
pub mod timers;
pub mod topics;
pub mod transactions;
pub mod turn;
pub mod waits;

pub use server::{BrokerServer, start};
pub use state::{Broker, StartError, World};
