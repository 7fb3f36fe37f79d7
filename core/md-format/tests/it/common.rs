//! What several tests need: the superblocks that md wrote, new arrays, and ways to damage bytes.
use md_format::*;
use std::path::PathBuf;

pub(crate) const BYTES: usize = 512;

/// One line of `golden.tsv` with the bytes it is about.
#[derive(Clone)]
pub(crate) struct Golden {
    pub(crate) case: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) bytes: Vec<u8>,
}

impl Golden {
    pub(crate) fn text(&self, field: &str) -> &str {
        let found = self.fields.iter().find(|(name, _)| name == field);
        &found.unwrap_or_else(|| panic!("golden.tsv has no column {field}")).1
    }

    pub(crate) fn number(&self, field: &str) -> u64 {
        let text = self.text(field);
        text.parse().unwrap_or_else(|_| panic!("{}: {field} is {text}", self.case))
    }

    pub(crate) fn location(&self) -> Location {
        let minor = match self.text("version") {
            "1.0" => Minor::V0,
            "1.1" => Minor::V1,
            _ => Minor::V2,
        };
        Location { minor, sector: self.number("super_sector") }
    }

    pub(crate) fn blank(&self) -> bool {
        self.text("role") == "blank"
    }

    pub(crate) fn parse(&self) -> Result<Superblock, SuperblockError> {
        Superblock::parse(&self.bytes, self.location(), self.number("device_sectors"))
    }

    fn areas(&self) -> Areas {
        let number = self.text("member")[1..].parse().unwrap_or(0);
        let log = (self.case == "r5_n4_ls_c64k_badblocks").then(|| Ok(kernel_log(number)));
        // Of the bitmaps only the superblocks are here: one that is as new stands for the kernel's.
        let has_bitmap = |sb: &Superblock| sb.features().contains(Features::BITMAP);
        let bitmap = self.parse().ok().filter(has_bitmap).map(|sb| {
            let bitmap = Bitmap::create(&sb, None).expect("the kernel had room for one");
            Ok((0..bitmap.pages()).flat_map(|page| bitmap.page(page).1.to_vec()).collect())
        });
        Areas { bad_blocks: log, bitmap, ..Areas::default() }
    }

    pub(crate) fn found(&self) -> Found {
        Found {
            label: self.text("member").to_owned(),
            device_sectors: self.number("device_sectors"),
            superblock: self.parse(),
            identity: None,
            areas: self.areas(),
        }
    }
}

/// The bad-block log of a member of `r5_n4_ls_c64k_badblocks`: its first sector, filled up with ones as on disk.
pub(crate) fn kernel_log(member: usize) -> Vec<u8> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/r5_n4_ls_c64k_badblocks.log");
    let all = std::fs::read(file).expect("the logs");
    let mut log = all[member * BYTES..(member + 1) * BYTES].to_vec();
    log.resize(8 * BYTES, 0xff);
    log
}

/// Every member of every array in `tests/data`, in the order of the file.
pub(crate) fn goldens() -> Vec<Golden> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let table = std::fs::read_to_string(dir.join("golden.tsv")).expect("tests/data/golden.tsv");
    let mut lines = table.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let mut seen: Vec<(String, usize)> = Vec::new();
    lines
        .map(|line| {
            let case = line[0].clone();
            if seen.last().is_none_or(|(last, _)| *last != case) {
                seen.push((case.clone(), 0));
            }
            let at = &mut seen.last_mut().expect("pushed above").1;
            let all = std::fs::read(dir.join(format!("{case}.sb"))).expect("a superblock file");
            let bytes = all[*at * BYTES..(*at + 1) * BYTES].to_vec();
            *at += 1;
            Golden { case, fields: header.iter().cloned().zip(line).collect(), bytes }
        })
        .collect()
}

/// The members of one array.
pub(crate) fn case(name: &str) -> Vec<Golden> {
    let members: Vec<_> = goldens().into_iter().filter(|golden| golden.case == name).collect();
    assert!(!members.is_empty(), "no golden {name}");
    members
}

/// The names of all arrays.
pub(crate) fn cases() -> Vec<String> {
    let mut names: Vec<String> = goldens().into_iter().map(|golden| golden.case).collect();
    names.dedup();
    names
}

pub(crate) const V2: Location = Location { minor: Minor::V2, sector: 8 };
/// 64 MiB.
pub(crate) const DEVICE: u64 = 131_072;

/// A clean new array at event 20 with `members` members of [`DEVICE`] sectors.
pub(crate) fn array(level: Level, members: usize) -> Vec<Superblock> {
    let uuids: Vec<Uuid> = (1..=members).map(|n| Uuid([n as u8; 16])).collect();
    let params = CreateParams {
        level,
        layout: Layout::default_for(level),
        chunk_sectors: 128,
        name: "pool",
        members: &vec![DEVICE; members],
        size_sectors: None,
        set_uuid: Uuid([0xa5; 16]),
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: true,
        minor: Minor::V2,
        bitmap: IntentBitmap::None,
        ppl: false,
    };
    let mut made = plan_create(&params).expect("a plain array");
    made.iter_mut().for_each(|superblock| superblock.set_events(20));
    made
}

/// `superblock` as found on a device called `label`.
pub(crate) fn found(label: &str, superblock: Superblock) -> Found {
    Found {
        label: label.to_owned(),
        device_sectors: DEVICE,
        superblock: Ok(superblock),
        identity: None,
        areas: Areas::default(),
    }
}

/// The devices of an array, called d0, d1, …
pub(crate) fn devices(array: &[Superblock]) -> Vec<Found> {
    array.iter().enumerate().map(|(n, one)| found(&format!("d{n}"), one.clone())).collect()
}

/// The checksum as the format describes it, written as plainly as possible.
pub(crate) fn oracle_checksum(bytes: &[u8]) -> u32 {
    let max_dev = u32::from_le_bytes(bytes[220..224].try_into().expect("4 bytes"));
    let end = 256 + 2 * max_dev as usize;
    let mut sum: u64 = 0;
    let mut at = 0;
    while at + 4 <= end {
        if at != 216 {
            sum += u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")));
        }
        at += 4;
    }
    if at + 2 <= end {
        sum += u64::from(u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes")));
    }
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// `bytes` with some replaced and the checksum made right again.
pub(crate) fn patched(bytes: &[u8], patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, patch) in patches {
        bytes[*at..at + patch.len()].copy_from_slice(patch);
    }
    let max_dev = u32::from_le_bytes(bytes[220..224].try_into().expect("4 bytes"));
    if 256 + 2 * max_dev as usize <= bytes.len() {
        let checksum = oracle_checksum(&bytes);
        bytes[216..220].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

/// The superblock of a 1.2 member with some bytes replaced and the checksum made right again.
pub(crate) fn altered(
    superblock: &Superblock,
    patches: &[(usize, &[u8])],
) -> Result<Superblock, SuperblockError> {
    Superblock::parse(&patched(&superblock.encode(), patches), V2, DEVICE)
}

/// A small generator whose sequence never changes (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}
