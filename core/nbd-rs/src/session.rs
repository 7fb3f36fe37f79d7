//! What both sides agreed on: the form of the messages, the metadata contexts, and the rules under which
//! one connection's requests are judged and answered.

use crate::export::{BlockSizes, ExportInfo, Features};
use crate::wire::{EXTENDED_REQUEST_LEN, REQUEST_LEN, limit};

/// The form of requests and replies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Headers {
    /// Compact requests, and one simple reply to each.
    #[default]
    Simple,
    /// Compact requests; reads and block status are answered in structured reply chunks.
    Structured,
    /// Extended requests with 64-bit lengths; everything is answered in extended reply chunks.
    Extended,
}

impl Headers {
    /// Whether reads are answered in chunks, structured or extended.
    pub fn has_chunks(self) -> bool {
        self != Headers::Simple
    }

    /// Whether requests and chunks are extended.
    pub fn is_extended(self) -> bool {
        self == Headers::Extended
    }

    /// Bytes of a request's header.
    pub fn request_len(self) -> usize {
        if self.is_extended() { EXTENDED_REQUEST_LEN } else { REQUEST_LEN }
    }
}

/// A metadata context of an export that `BLOCK_STATUS` can report: its place among the export's contexts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Context(u8);

impl Context {
    /// `base:allocation`: is a range a hole, does it read as zeroes. Every export has it.
    pub const BASE_ALLOCATION: Context = Context(0);
    /// The name of [`Context::BASE_ALLOCATION`].
    pub const BASE_ALLOCATION_NAME: &str = "base:allocation";

    /// The context at a place of [`ExportInfo::contexts`]; none from [`limit::CONTEXTS`] on.
    pub fn nth(place: usize) -> Option<Context> {
        u8::try_from(place).ok().filter(|_| place < limit::CONTEXTS).map(Context)
    }

    /// The context that has this id.
    pub fn with_id(id: u32) -> Option<Context> {
        usize::try_from(id.checked_sub(1)?).ok().and_then(Context::nth)
    }

    /// Its place among [`ExportInfo::contexts`].
    pub fn place(self) -> usize {
        usize::from(self.0)
    }

    /// The id under which the server reports it; the protocol leaves the choice to the server.
    pub fn id(self) -> u32 {
        u32::from(self.0) + 1
    }
}

/// A set of metadata contexts of one export.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Contexts(u32);

impl Contexts {
    /// No context: `BLOCK_STATUS` is refused.
    pub const NONE: Contexts = Contexts(0);

    /// The set with `context` in it.
    #[must_use]
    pub fn with(self, context: Context) -> Self {
        Contexts(self.0 | 1 << context.0)
    }

    /// Whether `context` is in it.
    pub fn contains(self, context: Context) -> bool {
        self.0 & 1 << context.0 != 0
    }

    /// Its contexts in order, each once.
    pub fn iter(self) -> impl Iterator<Item = Context> {
        (0..limit::CONTEXTS).filter_map(Context::nth).filter(move |context| self.contains(*context))
    }

    /// Whether there is none in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// How a server handshake ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Negotiated {
    /// The chosen export: an index into the exports that the handshake was given.
    pub export: usize,
    /// The form of requests and replies.
    pub headers: Headers,
    /// The metadata contexts that were selected for this export.
    pub contexts: Contexts,
    /// The client was told no block sizes: it came by `EXPORT_NAME`.
    pub sizes_untold: bool,
    /// The client asked for no padding after `EXPORT_NAME`. The handshake has acted on it already.
    pub no_zeroes: bool,
}

/// The rules of one connection in transmission. Cheap to copy; [`crate::validate`] judges requests by it
/// and its encoders shape the answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    size: u64,
    block: BlockSizes,
    features: Features,
    headers: Headers,
    contexts: Contexts,
    /// Reads may start and end at any byte.
    unaligned_reads: bool,
    draining: bool,
}

impl Session {
    /// The session that a handshake led to; `export` is the one that [`Negotiated::export`] names. A peer
    /// that skips the handshake (the Linux kernel does) gets `Negotiated::default()`: simple replies only.
    pub fn new(export: &ExportInfo, negotiated: &Negotiated) -> Self {
        Session {
            size: export.size(),
            block: export.block_sizes(),
            features: export.features(),
            headers: negotiated.headers,
            contexts: if negotiated.headers.has_chunks() { negotiated.contexts } else { Contexts::NONE },
            unaligned_reads: negotiated.sizes_untold && export.features().unaligned_reads,
            draining: false,
        }
    }

    /// From now on every request is answered `ESHUTDOWN`, except a disconnect.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The export has another size from now on, rounded down to the minimum block size: a
    /// [`crate::Command::Resize`] was carried out.
    pub fn resized(&mut self, size: u64) {
        let size = size.min(i64::MAX as u64);
        self.size = size - size % u64::from(self.block.minimum());
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Block sizes of the export.
    pub fn block_sizes(&self) -> BlockSizes {
        self.block
    }

    /// Whether reads may start and end at any byte; [`Features::unaligned_reads`] says for whom.
    pub fn unaligned_reads(&self) -> bool {
        self.unaligned_reads
    }

    /// The range to read for a [`crate::Command::Read`] of the `len` bytes from `offset` on: its first byte and
    /// its length. It is the request's own, but in a session with [`unaligned_reads`](Self::unaligned_reads):
    /// there it is the smallest range of whole minimum blocks that holds it.
    pub fn read_span(&self, offset: u64, len: u64) -> (u64, u64) {
        if !self.unaligned_reads {
            return (offset, len);
        }
        let minimum = u64::from(self.block.minimum());
        let start = offset - offset % minimum;
        let len = (offset - start).saturating_add(len);
        (start, len.checked_next_multiple_of(minimum).unwrap_or(u64::MAX))
    }

    /// What the export can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The form of requests and replies; [`Headers::request_len`] is what to read in front of a request.
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// Whether reads are answered in chunks, structured or extended.
    pub fn structured(&self) -> bool {
        self.headers.has_chunks()
    }

    /// The metadata contexts that `BLOCK_STATUS` reports.
    pub fn contexts(&self) -> Contexts {
        self.contexts
    }

    /// Whether `BLOCK_STATUS` takes a list of contexts.
    pub fn filters_status(&self) -> bool {
        self.headers.is_extended() && !self.contexts.is_empty()
    }

    /// Whether [`Session::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The [`crate::wire::transmission_flag`] bits of this session, as the handshake sent them; a kernel
    /// attach hands them to the kernel.
    pub fn transmission_flags(&self) -> u16 {
        self.features.transmission_flags(self.headers, self.contexts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_a_set_by_place_and_id() {
        let all = (0..limit::CONTEXTS).filter_map(Context::nth).fold(Contexts::NONE, Contexts::with);
        assert_eq!(all.len(), limit::CONTEXTS);
        assert!(all.iter().enumerate().all(|(place, context)| context.place() == place));
        assert!(all.iter().all(|context| Context::with_id(context.id()) == Some(context)));
        for id in [0, limit::CONTEXTS as u32 + 1, u32::MAX] {
            assert_eq!(Context::with_id(id), None);
        }
        assert_eq!(Context::nth(limit::CONTEXTS), None);
        assert!(Contexts::NONE.is_empty() && Contexts::NONE.iter().next().is_none());
    }
}
