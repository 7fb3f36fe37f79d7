//! Every constant of the superblock's bytes: offsets, the checksum, the role numbers.
//!
//! All integers are little-endian. A [`Field`] knows at compile time that it lies inside the fixed
//! part of 256 bytes, so reading and writing through it cannot fail. The role table follows it.

/// Bytes of a sector, the unit of every length and offset in the superblock.
pub const SECTOR: u64 = 512;

/// Bytes that have to be read at a candidate location; the superblock never needs more.
pub const READ_BYTES: usize = 4096;

/// The most entries of the role table: what fits into [`READ_BYTES`] behind the fixed part.
pub const MAX_DEVICES: u16 = ((READ_BYTES - HEAD_BYTES) / 2) as u16;

/// The value of `resync_offset` that says that all parity is good (md's MaxSector).
pub const CLEAN: u64 = u64::MAX;

/// Bytes of the fixed part, before the role table.
pub(crate) const HEAD_BYTES: usize = 256;

/// The first four bytes of a superblock.
pub(crate) const MAGIC_VALUE: u32 = 0xa92b_4efc;

/// Roles from here on are not roles but states.
pub(crate) const ROLE_LIMIT: u16 = 0xff00;
pub(crate) const ROLE_JOURNAL: u16 = 0xfffd;
pub(crate) const ROLE_FAULTY: u16 = 0xfffe;
pub(crate) const ROLE_SPARE: u16 = 0xffff;

/// `N` bytes at a fixed offset of the head.
#[derive(Clone, Copy)]
pub(crate) struct Field<const N: usize>(usize);

impl<const N: usize> Field<N> {
    const fn at(offset: usize) -> Self {
        assert!(offset + N <= HEAD_BYTES, "a field lies inside the head");
        Field(offset)
    }
}

pub(crate) const MAGIC: Field<4> = Field::at(0);
pub(crate) const MAJOR: Field<4> = Field::at(4);
pub(crate) const FEATURES: Field<4> = Field::at(8);
pub(crate) const PAD0: Field<4> = Field::at(12);
pub(crate) const SET_UUID: Field<16> = Field::at(16);
pub(crate) const SET_NAME: Field<32> = Field::at(32);
/// Low 40 bits seconds, high 24 bits microseconds.
pub(crate) const CTIME: Field<8> = Field::at(64);
pub(crate) const LEVEL: Field<4> = Field::at(72);
pub(crate) const LAYOUT: Field<4> = Field::at(76);
pub(crate) const SIZE: Field<8> = Field::at(80);
pub(crate) const CHUNK: Field<4> = Field::at(88);
pub(crate) const RAID_DISKS: Field<4> = Field::at(92);
/// Signed sectors from the superblock to the bitmap; with a partial parity log the same bytes are its place
/// (16 bits, signed) and its sectors.
pub(crate) const BITMAP_OFFSET: Field<4> = Field::at(96);
pub(crate) const PPL_OFFSET: Field<2> = Field::at(96);
pub(crate) const PPL_SIZE: Field<2> = Field::at(98);
pub(crate) const NEW_LEVEL: Field<4> = Field::at(100);
/// Array sectors that a reshape has passed, or has still to reach where it runs from the end.
pub(crate) const RESHAPE_POSITION: Field<8> = Field::at(104);
/// Signed: what a reshape adds to the number of roles.
pub(crate) const DELTA_DISKS: Field<4> = Field::at(112);
pub(crate) const NEW_LAYOUT: Field<4> = Field::at(116);
pub(crate) const NEW_CHUNK: Field<4> = Field::at(120);
/// Signed sectors that a reshape adds to the data offset.
pub(crate) const NEW_OFFSET: Field<4> = Field::at(124);
pub(crate) const DATA_OFFSET: Field<8> = Field::at(128);
pub(crate) const DATA_SIZE: Field<8> = Field::at(136);
pub(crate) const SUPER_OFFSET: Field<8> = Field::at(144);
pub(crate) const RECOVERY_OFFSET: Field<8> = Field::at(152);
pub(crate) const DEV_NUMBER: Field<4> = Field::at(160);
pub(crate) const CORRECTED_READS: Field<4> = Field::at(164);
pub(crate) const DEVICE_UUID: Field<16> = Field::at(168);
pub(crate) const DEVFLAGS: Field<1> = Field::at(184);
pub(crate) const BBLOG_SHIFT: Field<1> = Field::at(185);
pub(crate) const BBLOG_SIZE: Field<2> = Field::at(186);
pub(crate) const BBLOG_OFFSET: Field<4> = Field::at(188);
/// Low 40 bits seconds, high 24 bits microseconds.
pub(crate) const UTIME: Field<8> = Field::at(192);
pub(crate) const EVENTS: Field<8> = Field::at(200);
pub(crate) const RESYNC_OFFSET: Field<8> = Field::at(208);
pub(crate) const CHECKSUM: Field<4> = Field::at(216);
pub(crate) const MAX_DEV: Field<4> = Field::at(220);
/// Written by Linux 6.19 and later; zero before.
pub(crate) const LOGICAL_BLOCK_SIZE: Field<4> = Field::at(224);
pub(crate) const PAD3: Field<28> = Field::at(228);

/// The fixed part, and reading and writing its fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head(pub(crate) [u8; HEAD_BYTES]);

impl Head {
    pub(crate) fn bytes<const N: usize>(&self, field: Field<N>) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[field.0..field.0 + N]);
        out
    }

    pub(crate) fn put<const N: usize>(&mut self, field: Field<N>, value: [u8; N]) {
        self.0[field.0..field.0 + N].copy_from_slice(&value);
    }

    pub(crate) fn u16(&self, field: Field<2>) -> u16 {
        u16::from_le_bytes(self.bytes(field))
    }

    pub(crate) fn i16(&self, field: Field<2>) -> i16 {
        i16::from_le_bytes(self.bytes(field))
    }

    pub(crate) fn u32(&self, field: Field<4>) -> u32 {
        u32::from_le_bytes(self.bytes(field))
    }

    pub(crate) fn i32(&self, field: Field<4>) -> i32 {
        i32::from_le_bytes(self.bytes(field))
    }

    pub(crate) fn u64(&self, field: Field<8>) -> u64 {
        u64::from_le_bytes(self.bytes(field))
    }
}

/// The checksum of a head and its role table: the checksum field counts as zero, the 32-bit words are
/// added in 64 bits (an odd last role as 16 bits), then the high half is added to the low one.
pub(crate) fn checksum(head: &Head, roles: &[u16]) -> u32 {
    let words = head.0.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_le_bytes(*word)));
    let own = u64::from(head.u32(CHECKSUM));
    let pairs = roles.chunks(2).map(|pair| {
        let word = |at: usize| pair.get(at).map_or(0, |&role| u64::from(role));
        word(0) | word(1) << 16
    });
    let sum = words.chain(pairs).sum::<u64>() - own;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}
