//! One array shard: core, chains and member I/O on one thread
