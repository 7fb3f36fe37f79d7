//! The implementation for any CPU: eight bytes at a time in a `u64`.

use crate::Kernel;
use crate::generic::routines;
use crate::vector::Word;

routines! { kernel: Kernel::Portable, vector: Word, depth: 4, wide: 4 }
