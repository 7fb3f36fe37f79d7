//! Chains of memory operations over pluggable backends
