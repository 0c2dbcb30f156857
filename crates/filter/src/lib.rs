//! Tag expressions; SQL92 comes later.
