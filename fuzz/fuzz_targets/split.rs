//! An input as two parts, a few bytes that decide and the stream itself, and the stream in pieces.

/// Takes the first `N` bytes of the input; the rest is the stream.
pub fn decide<const N: usize>(data: &[u8]) -> Option<([u8; N], &[u8])> {
    let (head, rest) = data.split_first_chunk::<N>()?;
    Some((*head, rest))
}

/// The ends of the pieces into which `cuts` divide a stream of `len` bytes, ascending, `len` the last. A cut
/// of 0 takes the next byte alone; many zeroes in a row cut a stream into single bytes.
pub fn ends(cuts: [u8; 8], len: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    if cuts == [0; 8] {
        return (1..=len).collect();
    }
    for cut in cuts {
        at = (at + 1 + usize::from(cut)).min(len);
        ends.push(at);
    }
    ends.push(len);
    ends
}
