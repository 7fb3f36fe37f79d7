//! Descriptors of the DIF operations. Sizes are those of the source, in bytes.

use super::{Destination, Format, Source, TAG_BYTES, Tags, destination_flag};
use crate::descriptor::{BuildError, span};
use crate::wire::{Descriptor, Opcode, at};

/// The bits that a destination's options have in an update, and those that they have in an insert.
const UPDATE_FLAGS: u8 = INSERT_FLAGS
    | destination_flag::KEEP_APPLICATION
    | destination_flag::KEEP_GUARD
    | destination_flag::KEEP_REFERENCE;
const INSERT_FLAGS: u8 = destination_flag::INCREMENT_APPLICATION | destination_flag::FIXED_REFERENCE;

/// What source and destination have of each block.
struct Steps {
    source: usize,
    destination: usize,
}

/// Checks sizes and addresses, and gives the size of the source for the descriptor, and the bytes that go
/// to the destination.
fn sizes(source: u64, destination: Option<u64>, size: u64, steps: Steps) -> Result<(u32, u64), BuildError> {
    let short = span(&[source], size)?;
    let block = steps.source as u64;
    if !size.is_multiple_of(block) {
        return Err(BuildError::PartialBlock { size, block });
    }
    let written = (size / block).saturating_mul(steps.destination as u64);
    if let Some(destination) = destination {
        if destination.checked_add(written.saturating_sub(1)).is_none() {
            return Err(BuildError::Wraps { address: destination, size: written });
        }
        let apart = if source < destination { size } else { written };
        if source.abs_diff(destination) < apart {
            return Err(BuildError::Overlap { source_address: source, destination, size });
        }
    }
    Ok((short, written))
}

impl Descriptor {
    /// DIF_CHECK: compares, as [`crate::dif::check`].
    pub fn dif_check(
        source: u64,
        size: u64,
        format: Format,
        expected: &Source,
    ) -> Result<Descriptor, BuildError> {
        let steps = Steps { source: format.block.protected(), destination: 0 };
        let (short, _) = sizes(source, None, size, steps)?;
        Ok(Descriptor::operation(Opcode::DifCheck, source, 0, short)
            .with_format(format)
            .with_source(expected))
    }

    /// DIF_INS: copies and protects, as [`crate::dif::insert`].
    pub fn dif_insert(
        source: u64,
        destination: u64,
        size: u64,
        format: Format,
        made: &Destination,
    ) -> Result<Descriptor, BuildError> {
        let steps = Steps { source: format.block.bytes(), destination: format.block.protected() };
        let (short, _) = sizes(source, Some(destination), size, steps)?;
        Descriptor::operation(Opcode::DifInsert, source, destination, short)
            .with_format(format)
            .with_destination(made, INSERT_FLAGS)
    }

    /// DIF_STRP: compares and copies the data alone, as [`crate::dif::strip`]. A source that begins where
    /// the destination ends, or up to 8 bytes a block later, is refused: intel/DML avoids it because of a
    /// fault of a device.
    pub fn dif_strip(
        source: u64,
        destination: u64,
        size: u64,
        format: Format,
        expected: &Source,
    ) -> Result<Descriptor, BuildError> {
        let steps = Steps { source: format.block.protected(), destination: format.block.bytes() };
        let (short, written) = sizes(source, Some(destination), size, steps)?;
        if destination < source && (written..=size).contains(&source.abs_diff(destination)) {
            return Err(BuildError::StripEndsAtSource(source));
        }
        let strip = Descriptor::operation(Opcode::DifStrip, source, destination, short);
        Ok(strip.with_format(format).with_source(expected))
    }

    /// DIF_UPDT: compares and copies with other protection information, as [`crate::dif::update`].
    pub fn dif_update(
        source: u64,
        destination: u64,
        size: u64,
        format: Format,
        expected: &Source,
        made: &Destination,
    ) -> Result<Descriptor, BuildError> {
        let steps = Steps { source: format.block.protected(), destination: format.block.protected() };
        let (short, _) = sizes(source, Some(destination), size, steps)?;
        Descriptor::operation(Opcode::DifUpdate, source, destination, short)
            .with_format(format)
            .with_source(expected)
            .with_destination(made, UPDATE_FLAGS)
    }

    fn with_format(mut self, format: Format) -> Descriptor {
        self.set_field(at::DIF_FLAGS, [format.bits()]);
        self
    }

    fn with_source(mut self, expected: &Source) -> Descriptor {
        self.set_field(at::DIF_SOURCE_FLAGS, [expected.flags]);
        self.set_field(at::DIF_SOURCE_TAGS, tags(expected.tags));
        self
    }

    fn with_destination(mut self, made: &Destination, allowed: u8) -> Result<Descriptor, BuildError> {
        if made.flags & !allowed != 0 {
            return Err(BuildError::DifFlags(made.flags & !allowed));
        }
        self.set_field(at::DIF_DESTINATION_FLAGS, [made.flags]);
        self.set_field(at::DIF_DESTINATION_TAGS, tags(made.tags));
        Ok(self)
    }
}

/// Reference tag, mask, application tag, little-endian as all of a descriptor.
fn tags(tags: Tags) -> [u8; TAG_BYTES] {
    let [r0, r1, r2, r3] = tags.reference.to_le_bytes();
    let [m0, m1] = tags.mask.to_le_bytes();
    let [a0, a1] = tags.application.to_le_bytes();
    [r0, r1, r2, r3, m0, m1, a0, a1]
}
