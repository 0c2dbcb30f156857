//! Small pieces that every role uses and that know no business words.

pub mod clock;
pub mod config;
pub mod properties_file;
pub mod throttle;
