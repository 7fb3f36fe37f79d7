//! Devices of which only the metadata are kept, and a runner that answers everything and watches what is written.

use std::collections::BTreeMap;

use md_format::{
    Areas, Assembly, Found, Location, PPL_HEADER_BYTES, PplHeader, READ_BYTES, SECTOR, Superblock,
    SuperblockError, Uuid, candidates,
};
use uraid_core::{
    Action, Array, ArrayConfig, ComputeFault, Event, IoFault, MemberId, ReqId, RequestKind, Tick, Verdict,
};

/// Bytes of a device that are kept, at its start and at its end.
const KEPT: u64 = 2 << 20;
/// Actions after which a run ends: a damaged superblock may speak of a very large array.
const ACTIONS: u32 = 20_000;

/// A device.
pub struct Device {
    /// Where its superblock was put.
    pub at: Location,
    sectors: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Device {
    pub fn new(at: Location, sectors: u64) -> Self {
        Device { at, sectors, head: vec![0; KEPT as usize], tail: vec![0; KEPT as usize] }
    }

    fn place(&mut self, byte: u64) -> Option<&mut u8> {
        let tail = self.sectors * SECTOR - KEPT;
        match byte.checked_sub(tail) {
            Some(at) => self.tail.get_mut(usize::try_from(at).ok()?),
            None => self.head.get_mut(usize::try_from(byte).ok()?),
        }
    }

    /// Writes where bytes are kept; others are lost.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        for (byte, offset) in bytes.iter().zip(0..) {
            if let Some(place) = self.place(at + offset) {
                *place = *byte;
            }
        }
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let tail = self.sectors * SECTOR - KEPT;
        let end = self.sectors.saturating_mul(SECTOR);
        let byte = |offset: u64| match offset.checked_sub(tail) {
            Some(at) => self.tail.get(at as usize).copied().unwrap_or(0),
            None => self.head.get(offset as usize).copied().unwrap_or(0),
        };
        (at..at.saturating_add(len as u64).min(end)).map(byte).collect()
    }

    fn superblock(&self) -> Result<Superblock, SuperblockError> {
        Superblock::choose(candidates(self.sectors).into_iter().map(|place| {
            Superblock::parse(&self.read(place.sector * SECTOR, READ_BYTES), place, self.sectors)
        }))
    }

    /// Where its superblock says that a bitmap (0), a log of bad blocks (1) or of parity (2) is, in bytes; behind it if
    /// it says nothing.
    pub fn area(&self, which: u8) -> u64 {
        let base = self.at.sector * SECTOR;
        let bytes = self.read(base, 256);
        let word = |at: usize| i64::from(i32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n])));
        let offset = match which {
            0 => word(96),
            1 => word(188),
            _ => i64::from(word(96) as i16),
        };
        base.saturating_add_signed(offset.saturating_mul(512)).min(self.sectors * SECTOR)
    }

    /// Makes the checksum of the superblock fit what is there, and that of the first log of parity.
    pub fn seal(&mut self, which: u8) {
        let base = self.at.sector * SECTOR;
        let mut bytes = self.read(base, READ_BYTES);
        let entries = u32::from_le_bytes([220, 221, 222, 223].map(|at| bytes[at])).min(1920) as usize;
        bytes[216..220].fill(0);
        let words = bytes[..256 + entries * 2].chunks(4);
        let sum: u64 =
            words.map(|word| word.iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte))).sum();
        let checksum = (sum as u32).wrapping_add((sum >> 32) as u32);
        self.put(base + 216, &checksum.to_le_bytes());
        if which & 2 != 0 {
            self.seal_log();
        }
    }

    /// A header of a log that is anything but for its signature and checksum: what its bytes say, encoded anew.
    fn seal_log(&mut self) {
        let at = self.area(2);
        let bytes = self.read(at, PPL_HEADER_BYTES);
        if bytes.len() < PPL_HEADER_BYTES {
            return;
        }
        let mut header = PplHeader::empty();
        header.generation = u64::from(bytes[520]);
        let count = usize::from(bytes[528]).min(8);
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        header.entries = (0..count)
            .map(|n| 536 + n * 24)
            .map(|at| md_format::PplEntry {
                data_sector: u64::from(word(at)) | u64::from(word(at + 4)) << 32,
                pp_bytes: word(at + 8),
                data_bytes: word(at + 12),
                parity_role: word(at + 16),
                checksum: word(at + 20),
            })
            .collect();
        self.put(at, &header.encode(Uuid([9; 16])));
    }

    /// What assembly is told of it.
    pub fn found(&self, number: usize) -> Found {
        let superblock = self.superblock();
        let read = |at: u64, len: usize| Ok::<_, String>(self.read(at, len));
        let areas = superblock.as_ref().map(|sb| Areas::read(sb, read)).unwrap_or_default();
        let (label, identity) = (format!("d{number}"), Some((1, number as u64)));
        Found { label, device_sectors: self.sectors, superblock, identity, areas }
    }
}

/// Where a member may be written.
struct Ranges {
    data: std::ops::Range<u64>,
    metadata: Vec<std::ops::Range<u64>>,
}

impl Ranges {
    fn of(superblock: &Superblock) -> Self {
        let bytes = |sector: u64| sector.saturating_mul(SECTOR);
        let data = superblock.data_offset();
        let first = bytes(superblock.super_offset());
        let mut metadata = vec![first..first + READ_BYTES as u64];
        let areas = superblock.areas();
        metadata.extend(areas.iter().map(|a| bytes(a.sector)..bytes(a.sector) + a.bytes as u64));
        if let Some(log) = superblock.bad_block_log() {
            let at = superblock.super_offset().saturating_add_signed(i64::from(log.offset));
            metadata.push(bytes(at)..bytes(at + u64::from(log.sectors)));
        }
        Ranges { data: bytes(data)..bytes(data.saturating_add(superblock.size_sectors())), metadata }
    }
}

/// Runs an array and answers what it asks for, well or badly as the input has it.
pub fn run(devices: &[Device], assembly: &Assembly, decisions: [u8; 8], script: &[u8]) {
    let ids: Vec<MemberId> = assembly.members.iter().map(|member| MemberId(member.found as u16)).collect();
    let trusted: BTreeMap<MemberId, Ranges> =
        assembly.members.iter().zip(&ids).map(|(member, &id)| (id, Ranges::of(&member.superblock))).collect();
    let config = ArrayConfig { slots: 8, read_only: decisions[6] & 6 == 6, ..ArrayConfig::default() };
    let Ok(array) = Array::start(assembly, &ids, config) else { return };
    let mut runner = Runner { array, trusted, now: Tick(0), left: ACTIONS, script, at: 0 };
    assert!(runner.trusted.keys().all(|id| usize::from(id.0) < devices.len()));
    let bytes = runner.array.geometry().array_bytes();
    runner.settle();
    for step in 0..12 {
        let word = u64::from(runner.next()) << 8 | u64::from(runner.next());
        let (offset, len) = (word * 512 % bytes.max(512), (1 + u64::from(runner.next()) % 64) * 512);
        let kind = match runner.next() % 4 {
            0 => RequestKind::Read,
            1 => RequestKind::Flush,
            _ => RequestKind::Write { fua: step % 3 == 0 },
        };
        let event = Event::Request { id: ReqId(step), kind, offset, len: len.min(bytes - offset.min(bytes)) };
        runner.tell(event);
        if runner.next() % 16 == 0 {
            runner.tell(Event::FailMember(MemberId(u16::from(runner.script[0] % 8))));
        }
        runner.tell(Event::Idle);
        runner.now = runner.now.plus_ms(u64::from(runner.next()) * 50);
        runner.tell(Event::Timer);
    }
    runner.tell(Event::Stop);
}

struct Runner<'a> {
    array: Array,
    trusted: BTreeMap<MemberId, Ranges>,
    now: Tick,
    left: u32,
    script: &'a [u8],
    at: usize,
}

impl Runner<'_> {
    /// The next byte of the input, round and round; never of nothing.
    fn next(&mut self) -> u8 {
        self.at += 1;
        self.script.get(self.at % self.script.len().max(1)).copied().unwrap_or(1)
    }

    fn tell(&mut self, event: Event) {
        if self.left == 0 {
            return;
        }
        self.array.handle(self.now, event);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(action) = self.array.poll() {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            if self.left.is_multiple_of(64) {
                self.array.self_check().unwrap_or_else(|why| panic!("{why}"));
            }
            let Some(answer) = self.answer(action) else { continue };
            self.array.handle(self.now, answer);
        }
    }

    fn answer(&mut self, action: Action) -> Option<Event> {
        let bad = self.next() % 32 == 0;
        let result = |bad: bool| if bad { Err(IoFault::Io) } else { Ok(()) };
        Some(match action {
            Action::Read { io, member, .. } => {
                assert!(self.trusted.contains_key(&member), "{member:?} is read and was not taken");
                Event::IoDone { io, result: result(bad) }
            }
            Action::Flush { io, .. } => Event::IoDone { io, result: Ok(()) },
            Action::Write { io, member, offset, mem } => {
                let end = offset + u64::from(mem.len);
                let data = &self.trusted.get(&member).expect("a member that was not taken is written").data;
                assert!(
                    data.start <= offset && end <= data.end,
                    "{member:?}: {offset} is outside of its data"
                );
                Event::IoDone { io, result: result(bad) }
            }
            Action::WriteMeta { io, member, offset, bytes } => {
                self.check_metadata(member, offset, bytes.len() as u64);
                Event::IoDone { io, result: result(bad && offset % 3 == 0) }
            }
            Action::WriteLog { io, member, offset, parities, .. } => {
                let parity: u64 = parities.iter().map(|mem| u64::from(mem.len)).sum();
                self.check_metadata(member, offset, PPL_HEADER_BYTES as u64 + parity);
                Event::IoDone { io, result: result(bad) }
            }
            Action::Compute { id, .. } => {
                let verdict = Verdict { p_bad: bad, q_bad: false };
                let result = if bad && self.next() % 8 == 0 { Err(ComputeFault) } else { Ok(verdict) };
                Event::ComputeDone { id, result }
            }
            Action::Complete { .. } | Action::Notice(_) | Action::Stopped { .. } => return None,
        })
    }

    fn check_metadata(&self, member: MemberId, offset: u64, len: u64) {
        let ranges = &self.trusted.get(&member).expect("a member that was not taken is written").metadata;
        let inside = ranges.iter().any(|range| range.start <= offset && offset + len <= range.end);
        assert!(inside, "{member:?}: {len} bytes at {offset} are outside of its metadata {ranges:?}");
    }
}
