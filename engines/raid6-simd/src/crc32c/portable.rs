//! Sixteen bytes at a time by tables, on any CPU.

use super::Routines;
use super::poly::times_x;

/// The name of the implementation.
pub(super) const NAME: &str = "portable";

pub(super) static ROUTINES: Routines = Routines { name: NAME, crc32c, copy_crc32c };

/// Bytes a step.
const STEP: usize = 16;

/// `MOVED[n][b]` is the remainder of byte `b` with `n` bytes of zeroes after it.
static MOVED: [[u32; 256]; STEP] = {
    let mut moved = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut state = byte as u32;
        let mut n = 0;
        while n < STEP {
            let mut bit = 0;
            while bit < 8 {
                state = times_x(state);
                bit += 1;
            }
            moved[n][byte] = state;
            n += 1;
        }
        byte += 1;
    }
    moved
};

fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    let (blocks, tail) = bytes.as_chunks();
    let state = blocks.iter().fold(!crc, step);
    !by_bytes(state, tail)
}

fn copy_crc32c(crc: u32, src: &[u8], dst: &mut [u8]) -> u32 {
    let len = src.len().min(dst.len());
    let (src, src_tail) = src[..len].as_chunks();
    let (dst, dst_tail) = dst[..len].as_chunks_mut();
    let mut state = !crc;
    for (block, out) in src.iter().zip(dst) {
        *out = *block;
        state = step(state, block);
    }
    dst_tail.copy_from_slice(src_tail);
    !by_bytes(state, src_tail)
}

/// The state after a block. What depends on the old state is looked up last but needed first: all other
/// look-ups are ready by then.
#[inline(always)]
fn step(state: u32, block: &[u8; STEP]) -> u32 {
    let [a, b, c, d] = block.as_chunks().0 else { return state };
    let moved = |word: u32, after: usize| {
        let [w, x, y, z] = word.to_le_bytes().map(usize::from);
        MOVED[after + 3][w] ^ MOVED[after + 2][x] ^ MOVED[after + 1][y] ^ MOVED[after][z]
    };
    let [a, b, c, d] = [a, b, c, d].map(|word| u32::from_le_bytes(*word));
    (moved(d, 0) ^ moved(c, 4) ^ moved(b, 8)) ^ moved(a ^ state, 12)
}

fn by_bytes(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        let [low, ..] = state.to_le_bytes();
        (state >> 8) ^ MOVED[0][usize::from(low ^ byte)]
    })
}
