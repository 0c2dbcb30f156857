//! The name server: routes, registrations and KV configuration.
