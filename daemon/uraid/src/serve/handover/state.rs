//! What a process says about the descriptors that it leaves: an image of its own format in a memfd.
//!
//! | bytes | |
//! |---|---|
//! | 0..16 | `uraid-handover` and two zeroes |
//! | 16..20 | the mark: `GOOD`, or `USED` when a process has gone on with it |
//! | 20..24 | version, u32 little endian |
//! | 24..32 | bytes of the text, u64 |
//! | 32..40 | bytes behind the text, u64 |
//! | 40..48 | a sum (FNV-1a, 64 bits) of everything from byte 20 on, with these eight taken as zero |
//! | 48.. | the text: [`State`] as JSON; then the bytes that it refers to |
//!
//! The sum tells a whole image from one that was being written; it protects against nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::session::Agreement;

const MAGIC: &[u8; 16] = b"uraid-handover\0\0";
const GOOD: &[u8; 4] = b"GOOD";
const USED: &[u8; 4] = b"USED";
const MARK_AT: u64 = 16;
const SUMMED_FROM: usize = 20;
const SUM_AT: usize = 40;
const HEAD: usize = 48;
/// What this version writes, and the only one that it reads.
const VERSION: u32 = 1;
/// No image is larger: all memory for requests, and some more.
const BYTES_MAX: u64 = 64 << 30;

/// Everything that is said.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) array: ArrayFacts,
    /// Events of the superblocks, if all of them say that writing had ended.
    #[serde(default)]
    pub(super) ended_at: Option<u64>,
    pub(super) device: Option<DeviceRecord>,
    pub(super) connections: Vec<ConnectionRecord>,
    pub(super) listeners: Vec<ListenerRecord>,
}

/// Which volume it is, and as what clients know it. A process that serves something else has no use for it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct ArrayFacts {
    pub(crate) uuid: String,
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// The smallest unit of requests, in bytes.
    pub(crate) block: u32,
    /// The transmission flags of a connection without structured replies.
    pub(crate) flags: u16,
}

/// The kernel's device.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct DeviceRecord {
    /// N of /dev/nbdN.
    pub(crate) index: u32,
    /// How many sockets it was attached with.
    pub(crate) sockets: usize,
}

/// A connection.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct ConnectionRecord {
    /// Of the socket.
    pub(super) descriptor: Descriptor,
    /// The other end is the kernel's.
    pub(super) kernel: bool,
    pub(super) agreement: Agreement,
    pub(super) peer: String,
    /// What was read beyond the last request that was done.
    pub(super) leftover: Span,
    /// Answers that were not sent.
    pub(super) unsent: Span,
}

/// A listening socket.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct ListenerRecord {
    pub(super) descriptor: Descriptor,
    /// As in `listen`.
    pub(super) address: String,
}

/// A descriptor by the name under which it was stored, and by what it is.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Descriptor {
    pub(super) name: String,
    /// `st_ino`: no two sockets that are open have the same.
    pub(super) inode: u64,
}

/// Bytes behind the text.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Span {
    at: u64,
    len: u64,
}

/// Why there is no state to go on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is not whole")]
    Damaged,
    #[error("it is of version {0}, which this version of uraid does not know")]
    Version(u32),
    #[error("an earlier process has gone on with it, and did not come to a good end")]
    Used,
    #[error("its text makes no sense: {0}")]
    Text(serde_json::Error),
}

/// The bytes that a state refers to, while it is written or after it was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn add(&mut self, bytes: &[u8]) -> Span {
        let at = self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        Span { at, len: bytes.len() as u64 }
    }

    /// None if it is not within.
    pub(super) fn get(&self, span: Span) -> Option<&[u8]> {
        let at = usize::try_from(span.at).ok()?;
        let end = at.checked_add(usize::try_from(span.len).ok()?)?;
        self.0.get(at..end)
    }
}

impl State {
    /// A memfd that says this.
    pub(super) fn write(&self, bytes: &Bytes) -> io::Result<File> {
        let mut file = File::from(memfd_create("uraid-handover", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&encode(self, bytes)?)?;
        Ok(file)
    }

    /// Reads what a memfd says, and leaves it as it is.
    pub(super) fn read(file: &File) -> Result<(Self, Bytes), StateError> {
        let len = file.metadata()?.len();
        if len > BYTES_MAX {
            return Err(StateError::Damaged);
        }
        let mut image = vec![0; usize::try_from(len).map_err(|_| StateError::Damaged)?];
        file.read_exact_at(&mut image, 0)?;
        decode(&image)
    }

    /// Unmakes the mark: nobody goes on with this a second time. To be called with the claim on the array's
    /// members, which is what keeps two processes that have read the same state from doing this at once.
    ///
    /// # Errors
    /// The mark is unmade already: another process has gone on since this one read the state.
    pub(super) fn mark_used(file: &File) -> Result<(), StateError> {
        let mut mark = [0; GOOD.len()];
        file.read_exact_at(&mut mark, MARK_AT)?;
        match &mark {
            mark if mark == GOOD => Ok(file.write_all_at(USED, MARK_AT)?),
            mark if mark == USED => Err(StateError::Used),
            _ => Err(StateError::Damaged),
        }
    }
}

fn encode(state: &State, bytes: &Bytes) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(state)?;
    let mut image = Vec::with_capacity(HEAD + text.len() + bytes.0.len());
    image.extend_from_slice(MAGIC);
    image.extend_from_slice(GOOD);
    image.extend_from_slice(&VERSION.to_le_bytes());
    image.extend_from_slice(&(text.len() as u64).to_le_bytes());
    image.extend_from_slice(&(bytes.0.len() as u64).to_le_bytes());
    image.extend_from_slice(&[0; 8]);
    image.extend_from_slice(&text);
    image.extend_from_slice(&bytes.0);
    let sum = sum(&image).to_le_bytes();
    if let Some(place) = image.get_mut(SUM_AT..HEAD) {
        place.copy_from_slice(&sum);
    }
    Ok(image)
}

fn decode(image: &[u8]) -> Result<(State, Bytes), StateError> {
    let field = |at: usize| image.get(at..)?.first_chunk::<8>().copied().map(u64::from_le_bytes);
    let version = image.get(20..24).and_then(|v| v.first_chunk()).copied().map(u32::from_le_bytes);
    let (Some(version), Some(text_len), Some(bytes_len), Some(said)) =
        (version, field(24), field(32), field(SUM_AT))
    else {
        return Err(StateError::Damaged);
    };
    if !image.starts_with(MAGIC) {
        return Err(StateError::Damaged);
    }
    match image.get(16..20) {
        Some(mark) if mark == USED => return Err(StateError::Used),
        Some(mark) if mark == GOOD => {}
        _ => return Err(StateError::Damaged),
    }
    // What follows may mean something else in another version, the sum included.
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let whole = (HEAD as u64).checked_add(text_len).and_then(|len| len.checked_add(bytes_len));
    if whole != Some(image.len() as u64) || said != sum(image) {
        return Err(StateError::Damaged);
    }
    let behind = image.get(HEAD..).unwrap_or_default();
    let (text, bytes) = behind.split_at(usize::try_from(text_len).unwrap_or(behind.len()).min(behind.len()));
    let state = serde_json::from_slice(text).map_err(StateError::Text)?;
    Ok((state, Bytes(bytes.to_vec())))
}

fn sum(image: &[u8]) -> u64 {
    const SEED: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(PRIME);
    let before = image.get(SUMMED_FROM..SUM_AT).unwrap_or_default();
    let behind = image.get(HEAD..).unwrap_or_default();
    before.iter().chain(&[0; HEAD - SUM_AT]).chain(behind).fold(SEED, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_rs::{BlockSizes, ExportInfo, Features, Negotiated, Session};

    pub(crate) fn sample() -> (State, Bytes) {
        let export = ExportInfo::new("v", 1 << 20, BlockSizes::default(), Features::default()).unwrap();
        let agreement = Agreement::of(&Session::new(&export, &Negotiated::default()), &export);
        let mut bytes = Bytes::default();
        bytes.add(b"before");
        let descriptor = |name: &str, inode| Descriptor { name: name.to_owned(), inode };
        let connection = ConnectionRecord {
            descriptor: descriptor("nbd-0", 77),
            kernel: true,
            agreement,
            peer: "kernel".to_owned(),
            leftover: bytes.add(&[1, 2, 3]),
            unsent: bytes.add(&[]),
        };
        let array = ArrayFacts { uuid: "u".into(), name: "v".into(), size: 1 << 20, block: 512, flags: 1 };
        let listener =
            ListenerRecord { descriptor: descriptor("listen-0", 78), address: "unix:/s".to_owned() };
        let state = State {
            array,
            ended_at: Some(7),
            device: Some(DeviceRecord { index: 3, sockets: 2 }),
            connections: vec![connection],
            listeners: vec![listener],
        };
        (state, bytes)
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_only_once() {
        let (state, bytes) = sample();
        let file = state.write(&bytes).unwrap();
        for _ in 0..2 {
            let (got, got_bytes) = State::read(&file).unwrap();
            assert_eq!((&got, &got_bytes), (&state, &bytes));
            assert_eq!(got_bytes.get(got.connections[0].leftover), Some(&[1_u8, 2, 3][..]));
        }
        State::mark_used(&file).unwrap();
        assert!(matches!(State::read(&file), Err(StateError::Used)));
    }

    #[test]
    fn what_is_not_whole_is_not_believed() {
        let (state, bytes) = sample();
        let image = encode(&state, &bytes).unwrap();
        for len in 0..image.len() {
            assert!(decode(&image[..len]).is_err(), "{len} bytes");
        }
        for at in 0..image.len() {
            let mut damaged = image.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged).is_err(), "byte {at}");
        }
        let mut longer = image.clone();
        longer.push(0);
        assert!(decode(&longer).is_err());
        let mut newer = image;
        newer[20] = 2;
        assert!(matches!(decode(&newer), Err(StateError::Version(2))));
    }

    #[test]
    fn a_span_beyond_the_end_is_none() {
        let mut bytes = Bytes::default();
        bytes.add(b"abc");
        for (at, len) in [(3, 1), (0, 4), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(bytes.get(Span { at, len }), None);
        }
    }
}
