//! The RocketMQ remoting protocol and record formats, as pure functions over bytes.
//!
//! This crate never does I/O, holds no locks and knows no business rules. What it decodes is
//! lenient (old and odd clients), what it encodes is strict and equal to the Java original.

pub mod body;
pub mod codes;
pub mod compress;
pub mod frame;
pub mod header;
pub mod json;
pub mod message_id;
pub mod properties;
pub mod record;
pub mod requests;
pub mod text;
