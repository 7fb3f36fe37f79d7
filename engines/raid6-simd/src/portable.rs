//! The implementation for any CPU: eight bytes at a time in a `u64`.

use crate::Kernel;
use crate::generic::routines;
use crate::vector::Word;

routines! { kernel: Kernel::Portable, vector: Word,
pq: 4 / 4, xor: 4 / 4, update: 4, dense: [] }
