//! The write-intent bitmap of an array, from the copies on its members.
//!
//! Every member that counts has a copy. Bits are set on all of them before a region is written and cleared when
//! all of it is durable, and a crash may come between two copies. So a bit that is set anywhere may mean a
//! write, and what is cleared anywhere was not needed: the union of the copies is always enough. A copy whose
//! count of events is below the array's was left behind by someone who knows nothing of bitmaps, and tells
//! nothing (md-bitmap.c, `md_bitmap_read_sb`; the kernel reads one copy only).

use crate::assemble_types::{AssembleError, Found, Warning};
use crate::bitmap::{Bitmap, BitmapError};
use crate::features::Features;
use crate::superblock::{DevRole, Superblock};

/// The bitmap with which an array starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArrayBitmap {
    /// What all members are to have.
    pub bitmap: Bitmap,
    /// Some copy differs: all of it has to be written before anything relies on it.
    pub differs: bool,
}

/// Reads the copies of the members that hold data in full, given as index among `found` and superblock.
/// `None` if the array has no bitmap.
///
/// # Errors
/// No copy can be used, or one has a version that asks for more than is done here.
pub(crate) fn array_bitmap<'a>(
    found: &[Found],
    taken: impl Iterator<Item = (usize, &'a Superblock)>,
    newest: &Superblock,
    warnings: &mut Vec<Warning>,
) -> Result<Option<ArrayBitmap>, AssembleError> {
    if !newest.features().contains(Features::BITMAP) {
        return Ok(None);
    }
    let label = |index: usize| found.get(index).map_or_else(String::new, |one| one.label.clone());
    let holds_role = |one: &Superblock| matches!(one.role(), DevRole::Active(_));
    let mut copies = Vec::new();
    let mut bad = Vec::new();
    // What a member says that is still being filled does not count, but it will: it has to be brought to the others.
    let mut filled = Vec::new();
    for (index, superblock) in taken.filter(|(_, superblock)| holds_role(superblock)) {
        let bytes = found.get(index).and_then(|one| one.areas.bitmap.clone());
        let copy = match bytes {
            Some(Ok(bytes)) => Bitmap::parse(&bytes, superblock),
            Some(Err(error)) => Err(BitmapError::Unreadable(error)),
            None => Err(BitmapError::Unreadable("its superblock names none".to_owned())),
        };
        match copy {
            copy if superblock.recovery_offset().is_some() => filled.push(copy.ok()),
            Ok(copy) => copies.push(copy),
            Err(why) => bad.push((label(index), why)),
        }
    }
    let other_version = bad.iter().find(|(_, why)| matches!(why, BitmapError::Version(_)));
    if let Some((label, why)) = other_version.or(bad.first().filter(|_| copies.is_empty())) {
        return Err(AssembleError::Bitmap { label: label.clone(), why: why.clone() });
    }
    Ok(merged(&copies, &filled, newest, bad, warnings))
}

fn merged(
    copies: &[Bitmap],
    filled: &[Option<Bitmap>],
    newest: &Superblock,
    bad: Vec<(String, BitmapError)>,
    warnings: &mut Vec<Warning>,
) -> Option<ArrayBitmap> {
    let first = copies.first()?;
    let believed = |copy: &&Bitmap| {
        copy.events() >= newest.events() && !copy.is_stale() && copy.chunk_bytes() == first.chunk_bytes()
    };
    let mut bitmap = copies.iter().find(believed).unwrap_or(first).clone();
    let outdated = !copies.iter().any(|copy| believed(&copy));
    if outdated {
        bitmap.set_all();
        // Whoever was away before may have missed writes that no bit tells of, once these are cleared again.
        bitmap.set_events_cleared(newest.events());
        warnings.push(Warning::BitmapOutdated { dirty: !newest.is_clean() });
    }
    for copy in copies.iter().filter(believed) {
        bitmap.merge(copy);
        bitmap.set_events_cleared(bitmap.events_cleared().max(copy.events_cleared()));
    }
    let copies_differ = copies.iter().any(|copy| *copy != bitmap);
    let filled_differ = filled.iter().any(|copy| copy.as_ref() != Some(&bitmap));
    let differs = outdated || !bad.is_empty() || copies_differ || filled_differ;
    bitmap.renew(newest);
    bitmap.set_events(newest.events().max(bitmap.events()));
    // The kernel takes an event back when it marks an array clean again, and this with it.
    bitmap.set_events_cleared(bitmap.events_cleared().min(newest.events()));
    warnings.extend(bad.into_iter().map(|(label, why)| Warning::BitmapCopy { label, why }));
    Some(ArrayBitmap { bitmap, differs })
}
