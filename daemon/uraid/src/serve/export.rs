//! What clients see of the array.

use nbd_rs::wire::limit;
use nbd_rs::{ApiMisuse, BlockSizes, ExportInfo, Features};
use uraid_blockio::Member;
use uraid_core::Geometry;
use uraid_shard::with_redundancy_context;

/// The smallest block of disks that do not take 512 bytes.
const BLOCK_4K: u32 = 4096;
const BLOCK_512: u32 = 512;

/// What is known of the members when the export is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MemberTraits {
    /// A member writes blocks of 4 KiB only, so smaller writes would be read-modify-write twice over.
    pub(super) blocks_4k: bool,
    /// A member seeks.
    pub(super) rotational: bool,
}

impl MemberTraits {
    /// What these members have in common, the worst of each.
    pub(super) fn of(members: &[Member]) -> Self {
        MemberTraits {
            blocks_4k: members.iter().any(|member| member.logical_block() > BLOCK_512),
            rotational: members.iter().any(|member| member.rotational() == Some(true)),
        }
    }
}

/// The one export: all of the array, under the array's name.
///
/// Requests are best aligned to chunks; whole stripes would be better still, but the protocol wants a
/// power of two. Larger requests than advertised are served too, up to the protocol's own limit.
///
/// # Errors
/// The protocol cannot carry the name or the size.
pub(super) fn info(
    name: &str,
    geometry: &Geometry,
    traits: MemberTraits,
    read_only: bool,
) -> Result<ExportInfo, ApiMisuse> {
    let minimum = if traits.blocks_4k { BLOCK_4K } else { BLOCK_512 };
    let max_payload = limit::PAYLOAD_ADVERTISED;
    let preferred = u32::try_from(geometry.chunk_bytes()).unwrap_or(max_payload).clamp(minimum, max_payload);
    let block = BlockSizes::new(minimum, preferred, max_payload)?;
    let features = Features {
        read_only,
        flush: true,
        fua: true,
        rotational: traits.rotational,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
        cache: true,
        multi_conn: true,
        unaligned_reads: true,
        resize: false,
    };
    let info = ExportInfo::new(name, geometry.array_bytes(), block, features)?;
    let (data, parity) = (geometry.data(), geometry.parity());
    let info = info.with_description(format!("uraid array of {data} data and {parity} parity members"))?;
    with_redundancy_context(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use md_format::{Layout, Level};

    fn geometry(chunk: u64) -> Geometry {
        let layout = Layout::default_for(Level::Raid6);
        Geometry::new(Level::Raid6, layout, 6, chunk, 1 << 26).unwrap()
    }

    #[test]
    fn blocks_follow_members_and_chunk() {
        for (chunk, blocks_4k, minimum) in
            [(65536, false, 512), (65536, true, 4096), (4096, true, 4096), (16 << 20, false, 512)]
        {
            let traits = MemberTraits { blocks_4k, rotational: false };
            let info = info("v", &geometry(chunk), traits, false).unwrap();
            let block = info.block_sizes();
            assert_eq!((block.minimum(), u64::from(block.preferred())), (minimum, chunk));
            assert_eq!(block.max_payload(), 32 << 20);
            assert_eq!(info.contexts(), ["base:allocation", "x-uraid:redundancy"]);
            assert_eq!(info.size(), 4 << 26);
        }
    }

    #[test]
    fn a_read_only_export_says_so() {
        let traits = MemberTraits { blocks_4k: false, rotational: true };
        let info = info("v", &geometry(65536), traits, true).unwrap();
        assert!(info.features().read_only && info.features().rotational && info.features().multi_conn);
    }
}
