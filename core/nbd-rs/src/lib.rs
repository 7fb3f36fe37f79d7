//! The NBD protocol, server and client side, as state machines over byte slices
#![forbid(unsafe_code)]
