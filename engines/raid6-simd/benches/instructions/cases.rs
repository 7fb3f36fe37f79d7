//! What is counted, and by which names.

use raid6_simd::Kernel;

use crate::work::{Operation, Shape};

const DATA_BLOCKS: [usize; 3] = [4, 8, 16];
const BLOCK_LEN: usize = 4 << 10;

/// One line of the table.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) operation: Operation,
    pub(crate) kernel: Kernel,
    pub(crate) shape: Shape,
}

impl Case {
    /// Those that this CPU can run and whose names have all of the words. The naive implementation is what
    /// others are tested against, and its speed is nobody's concern.
    pub(crate) fn all(words: &[String]) -> Vec<Case> {
        let mut all = Vec::new();
        for operation in Operation::ALL {
            for kernel in Kernel::ALL {
                for &data_blocks in operation.numbers_of_data_blocks(&DATA_BLOCKS) {
                    all.push(Case { operation, kernel, shape: Shape { data_blocks, block_len: BLOCK_LEN } });
                }
            }
        }
        all.retain(|case| {
            let id = case.id();
            case.kernel != Kernel::Naive
                && case.kernel.is_available()
                && words.iter().all(|word| id.contains(word))
        });
        all
    }

    /// `OPERATION/IMPLEMENTATION/SHAPE`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}/{}", self.operation.name(), self.kernel, self.shape)
    }
}
