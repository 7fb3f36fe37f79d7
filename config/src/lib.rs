//! The configuration file of uraid
#![forbid(unsafe_code)]
