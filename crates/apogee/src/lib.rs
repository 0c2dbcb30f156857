//! The product: one binary with every role.
