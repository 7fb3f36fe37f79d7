//! What a new member keeps beside its superblock, as bytes: an empty bad-block log, a bitmap in which every bit is
//! set, an empty partial parity log.

use md_format::{Bitmap, PplHeader, SECTOR, Superblock};

/// Sectors of the member, and what is to stand from there on.
pub(super) type Beside = Vec<(u64, Vec<u8>)>;

/// For each member. `bitmap_chunk` are the bytes of a region, if that was asked for.
///
/// # Errors
/// The bitmap does not fit with regions like that; in words.
pub(super) fn of(plan: &[Superblock], bitmap_chunk: Option<u64>) -> Result<Vec<Beside>, String> {
    plan.iter().map(|superblock| of_one(superblock, bitmap_chunk)).collect()
}

fn of_one(superblock: &Superblock, bitmap_chunk: Option<u64>) -> Result<Beside, String> {
    let mut beside = Beside::new();
    if let Some(log) = superblock.bad_block_log() {
        let start = superblock.super_offset().saturating_add_signed(log.offset.into());
        // An empty one is all ones.
        beside.push((start, vec![0xff; usize::from(log.sectors) * SECTOR as usize]));
    }
    for area in superblock.areas() {
        match area.kind {
            md_format::AreaKind::Bitmap => {
                let bitmap = Bitmap::create(superblock, bitmap_chunk).map_err(|error| error.to_string())?;
                for page in (0..bitmap.pages()).map(|page| bitmap.page(page)) {
                    beside.push((area.sector + page.0 / SECTOR, page.1.to_vec()));
                }
            }
            md_format::AreaKind::Ppl => {
                // What an earlier array left there must not be taken for a log.
                let mut bytes = vec![0; area.bytes];
                let header = PplHeader::empty().encode(superblock.set_uuid());
                bytes.iter_mut().zip(header).for_each(|(to, from)| *to = from);
                beside.push((area.sector, bytes));
            }
            md_format::AreaKind::BadBlocks => {}
        }
    }
    Ok(beside)
}
