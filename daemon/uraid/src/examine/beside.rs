//! What a member keeps beside its superblock, as far as it can be understood: the write-intent bitmap, the log
//! of bad blocks, the partial parity log.

use md_format::{Areas, BadBlocks, Bitmap, PplHeader, Superblock, newest_log};

/// What was found where the superblock says that something is. An error says why it is of no use.
#[derive(Default, Debug)]
pub(super) struct Beside {
    pub(super) bitmap: Option<Result<Bitmap, String>>,
    pub(super) bad_blocks: Option<Result<BadBlocks, String>>,
    /// The newest log.
    pub(super) ppl: Option<Result<PplHeader, String>>,
}

impl Beside {
    /// Reads the areas of a member. A log of bad blocks that the feature bits do not speak of is empty.
    pub(super) fn of(superblock: &Superblock, areas: &Areas) -> Self {
        let bytes = |area: &Option<Result<Vec<u8>, String>>| area.clone();
        let bitmap = bytes(&areas.bitmap)
            .map(|read| read.and_then(|bytes| Bitmap::parse(&bytes, superblock).map_err(|e| e.to_string())));
        let bad_blocks = superblock.bad_block_log().map(|log| match bytes(&areas.bad_blocks) {
            None => Ok(BadBlocks::default()),
            Some(read) => read.and_then(|bytes| BadBlocks::parse(log, &bytes).map_err(|e| e.to_string())),
        });
        let ppl = bytes(&areas.ppl).map(|read| {
            read.and_then(|bytes| {
                newest_log(&bytes, superblock.set_uuid()).map(|(_, log)| log).map_err(|e| e.to_string())
            })
        });
        Self { bitmap, bad_blocks, ppl }
    }

    /// The bitmap, if there is one that can be understood.
    pub(super) fn sound_bitmap(&self) -> Option<&Bitmap> {
        self.bitmap.as_ref().and_then(|bitmap| bitmap.as_ref().ok())
    }
}
