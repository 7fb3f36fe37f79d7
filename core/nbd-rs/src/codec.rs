//! Reading integers and strings from a slice, and gathering fixed-size messages from pieces.
//!
//! Nothing here can run past its slice: every access is checked and answers `None` at the end.

/// A cursor over the bytes of one complete message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Bytes not yet read.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    /// All bytes that are left.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>()?;
        self.rest = tail;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// A message of `N` bytes that arrives in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Partial<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Partial<N> {
    pub(crate) fn new() -> Self {
        Partial { bytes: [0; N], have: 0 }
    }

    /// Takes what is missing from the front of `input`; the whole message once it is there.
    pub(crate) fn fill(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let missing = N - self.have;
        let (piece, rest) = input.split_at(missing.min(input.len()));
        if let Some(room) = self.bytes.get_mut(self.have..self.have + piece.len()) {
            room.copy_from_slice(piece);
            self.have += piece.len();
        }
        *input = rest;
        (self.have == N).then_some(self.bytes)
    }
}

/// Bytes waiting to be sent; what was sent is forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    pub(crate) fn advance(&mut self, n: usize) {
        self.sent = self.sent.saturating_add(n).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }
}

/// Up to `N` bytes on the stack: the head of a reply, to be sent before its payload (if it has one).
#[derive(Clone, Copy, Debug)]
pub struct Frame<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Frame<N> {
    pub(crate) fn new() -> Self {
        Frame { bytes: [0; N], len: 0 }
    }

    /// Appends bytes. The encoders know the size of what they write; more than `N` is a defect of theirs.
    pub(crate) fn put(mut self, bytes: &[u8]) -> Self {
        let end = self.len + bytes.len();
        match self.bytes.get_mut(self.len..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len = end;
            }
            None => debug_assert!(false, "a frame of {N} bytes cannot hold {end}"),
        }
        self
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> AsRef<[u8]> for Frame<N> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl<const N: usize> PartialEq for Frame<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> Eq for Frame<N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_stops_at_the_end_and_keeps_its_place() {
        let mut reader = Reader::new(&[0, 1, 0, 0, 0, 2, 9]);
        assert_eq!(reader.u16(), Some(1));
        assert_eq!(reader.u64(), None);
        assert_eq!(reader.u32(), Some(2));
        assert_eq!(reader.take(2), None);
        assert_eq!(reader.remaining(), 1);
        assert_eq!(reader.take_rest(), &[9]);
        assert_eq!(reader.take_rest(), &[] as &[u8]);
    }

    #[test]
    fn partial_gathers_over_any_pieces_and_leaves_the_rest() {
        let mut partial = Partial::<4>::new();
        let mut input: &[u8] = &[1];
        assert_eq!(partial.fill(&mut input), None);
        input = &[];
        assert_eq!(partial.fill(&mut input), None);
        input = &[2, 3, 4, 5];
        assert_eq!(partial.fill(&mut input), Some([1, 2, 3, 4]));
        assert_eq!(input, &[5]);
    }

    #[test]
    fn output_forgets_what_was_sent() {
        let mut output = Output::default();
        output.put_u32(0x0102_0304);
        output.advance(3);
        assert_eq!(output.pending(), &[4]);
        output.advance(usize::MAX);
        assert!(output.pending().is_empty());
        output.put_u16(7);
        assert_eq!(output.pending(), &[0, 7]);
    }
}
