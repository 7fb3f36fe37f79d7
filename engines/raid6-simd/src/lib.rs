//! RAID-6 parity kernels: xor, P+Q, update, check and recovery
