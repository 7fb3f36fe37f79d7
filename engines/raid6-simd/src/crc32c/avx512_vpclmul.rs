//! AVX-512 with VPCLMULQDQ: four registers of 64 bytes are folded while the `crc32` instruction works on
//! four streams of its own.
//!
//! Folding: a 128-bit lane that is followed by D bits is `L x^(64+D) + H x^D` for its two halves L and
//! H, of which L is the first in memory. Each half times a constant of 32 bits has at most 96 bits and fits
//! the lane D bits further on, to which it is added. A turn of the loop does this for four registers with
//! D = 2048: eight multiplications for 256 bytes. Only at the end are the sixteen lanes folded onto the last
//! one, each with its own D, and that one is divided by two `crc32` instructions.
//!
//! The multiplier is then busy all the time, but the `crc32` unit idle. So a *go* of n turns is laid out as
//!
//! ```text
//! | four streams of 24n bytes | 256n bytes that are folded |
//! ```
//!
//! where the first turn folds over the streams and the others over 256 bytes, and each of them also
//! advances every stream by three words. The streams start at zero, so that they wait for nothing; at
//! the end of the go, their states are moved and added to the last register.
//!
//! A copy folds alone: it is limited by its stores, and streams, which would be further
//! places to write to, made it slower.

use std::arch::x86_64::*;
use std::ptr::null_mut;
use std::sync::atomic::{Ordering, compiler_fence};

use super::power::{lane_keys, move_over};
use super::{Routines, sse42};

/// Proof that the CPU has AVX-512F, VPCLMULQDQ, SSE4.2 and PCLMULQDQ: [`Avx512Vpclmul::detect`] is the
/// only way to one.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vpclmul(());

impl Avx512Vpclmul {
    /// `Some` if this CPU, and the operating system, support all four.
    pub(super) fn detect() -> Option<Self> {
        sse42::Sse42::detect()?;
        let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq");
        found.then_some(Avx512Vpclmul(()))
    }

    /// The implementation, which the token allows to be called.
    pub(super) fn routines(self) -> &'static Routines {
        &ROUTINES
    }
}

/// The name of the implementation.
pub(super) const NAME: &str = "avx512_vpclmul";

static ROUTINES: Routines = Routines { name: NAME, crc32c, copy_crc32c };

/// What a register holds.
type Block = [u8; 64];
/// What a turn folds.
type Turn = [Block; WIDTH];
/// What a turn takes of each stream.
type Unit = [[u8; 8]; 3];

/// Registers that are folded at once: enough to hide the latency of a multiplication.
const WIDTH: usize = 4;
/// Bytes of a turn of a go.
const TURN_BYTES: usize = size_of::<Turn>() + 4 * size_of::<Unit>();
/// The longest go: enough turns to make little of the end, and few enough to stay within about a page,
/// beyond which a CPU's prefetcher no longer sees memory being read in order.
const TURNS_MAX: usize = 10;
/// The shortest go: with fewer turns the streams would not be worth their end.
const TURNS_MIN: usize = 4;

/// Over a turn without streams.
static TURN: [u64; 2] = lane_keys(size_of::<Turn>());

/// At the end: for each register and lane, over what follows it up to the last lane.
static LAST: [[[u64; 2]; 4]; WIDTH] = {
    let mut keys = [[[0; 2]; 4]; WIDTH];
    let mut i = 0;
    while i < 4 * WIDTH {
        keys[i / 4][i % 4] = lane_keys(16 * (4 * WIDTH - 1 - i));
        i += 1;
    }
    keys
};

/// The constants of a go.
#[derive(Clone, Copy)]
struct Go {
    /// For the first turn: over itself and the streams.
    first_turn: [u64; 2],
    /// For the state of each stream: to the first lane of the last register. That lane has 48 bytes after
    /// it.
    streams: [u32; 4],
}

/// For each number of turns.
static GOES: [Go; TURNS_MAX + 1] = {
    let mut goes = [Go { first_turn: [0; 2], streams: [0; 4] }; TURNS_MAX + 1];
    let mut n = 1;
    while n < goes.len() {
        let stream = n * size_of::<Unit>();
        let folded = n * size_of::<Turn>() - 48;
        goes[n].first_turn = lane_keys(size_of::<Turn>() + 4 * stream);
        goes[n].streams = [
            move_over(folded + 3 * stream),
            move_over(folded + 2 * stream),
            move_over(folded + stream),
            move_over(folded),
        ];
        n += 1;
    }
    goes
};

#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2,pclmulqdq")]
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: nothing is copied.
    !unsafe { update::<false>(!crc, bytes, null_mut()) }
}

#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2,pclmulqdq")]
fn copy_crc32c(crc: u32, src: &[u8], dst: &mut [u8]) -> u32 {
    let src = &src[..src.len().min(dst.len())];
    // SAFETY: `dst` is not shorter than `src`, and shares no memory with it.
    !unsafe { update::<true>(!crc, src, dst.as_mut_ptr()) }
}

/// The state after `src`, which is copied to `dst` if `COPY`.
///
/// # Safety
/// If `COPY`, as many bytes as `src` has can be written at `dst`, and none of them is in `src`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2,pclmulqdq")]
unsafe fn update<const COPY: bool>(state: u32, src: &[u8], dst: *mut u8) -> u32 {
    let (blocks, tail) = src.as_chunks::<64>();
    let Some((start, mut blocks)) = blocks.split_first_chunk::<WIDTH>() else {
        // SAFETY: the caller's promise.
        return unsafe { sse42::update::<COPY>(state, src, dst) };
    };
    let mut sums = load_turn(start);
    // SAFETY: `dst` has room for all of `src`, and moves on as that is taken.
    unsafe {
        let mut dst = put_turn::<COPY>(sums, dst);
        // The state belongs to the first four bytes.
        let state = _mm512_zextsi128_si512(_mm_cvtsi32_si128(state.cast_signed()));
        sums[0] = _mm512_xor_si512(sums[0], state);
        if !COPY {
            (sums, blocks) = fold_goes(sums, blocks);
        }
        let (turns, blocks) = blocks.as_chunks();
        for turn in turns {
            let next = load_turn(turn);
            dst = put_turn::<COPY>(next, dst);
            sums = fold_turn(sums, next);
        }
        for block in blocks {
            let next = load(block);
            dst = put::<COPY>(next, dst);
            sums = fold_one(sums, next);
        }
        sse42::update::<COPY>(divide(sums), tail, dst)
    }
}

/// The sums after as many goes as fit, and the blocks that are left.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2,pclmulqdq")]
fn fold_goes(mut sums: [__m512i; WIDTH], mut blocks: &[Block]) -> ([__m512i; WIDTH], &[Block]) {
    while size_of_val(blocks) >= TURNS_MIN * TURN_BYTES {
        // Of an even number of turns, the streams fill whole blocks.
        let turns = (size_of_val(blocks) / TURN_BYTES).min(TURNS_MAX) & !1;
        let (go, rest) = blocks.split_at(turns * TURN_BYTES / size_of::<Block>());
        sums = fold_go(sums, go, turns);
        blocks = rest;
    }
    (sums, blocks)
}

/// The sums after a go of `n` turns.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2,pclmulqdq")]
fn fold_go(mut sums: [__m512i; WIDTH], go: &[Block], n: usize) -> [__m512i; WIDTH] {
    let (units, turns) = go.split_at(n * 4 * size_of::<Unit>() / size_of::<Block>());
    let units: &[Unit] = units.as_flattened().as_chunks().0.as_chunks().0;
    let (first, rest) = units.split_at(n);
    let (second, rest) = rest.split_at(n);
    let (third, fourth) = rest.split_at(n);
    let mut states = [0; 4];
    let mut over = broadcast(&GOES[n].first_turn);
    for ((((turn, a), b), c), d) in turns.as_chunks().0.iter().zip(first).zip(second).zip(third).zip(fourth) {
        let turn: &Turn = turn;
        for i in 0..WIDTH {
            sums[i] = fold(sums[i], over, load(&turn[i]));
            if i < a.len() {
                states[0] = sse42::step(states[0], &a[i]);
                states[1] = sse42::step(states[1], &b[i]);
                states[2] = sse42::step(states[2], &c[i]);
                states[3] = sse42::step(states[3], &d[i]);
            }
            // The two kinds of work stay mixed as they are written here. Sorted by kind, which
            // compilers like to do, they are too far apart for the CPU to overlap them.
            compiler_fence(Ordering::SeqCst);
        }
        over = broadcast(&TURN);
    }
    sums[WIDTH - 1] = _mm512_xor_si512(sums[WIDTH - 1], moved(states, &GOES[n].streams));
    sums
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &Block) -> __m512i {
    // SAFETY: a block has 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_turn(turn: &Turn) -> [__m512i; WIDTH] {
    [load(&turn[0]), load(&turn[1]), load(&turn[2]), load(&turn[3])]
}

/// Writes a register to `dst` if `COPY`, and returns where the next one goes.
///
/// # Safety
/// If `COPY`, 64 bytes can be written at `dst`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put<const COPY: bool>(register: __m512i, dst: *mut u8) -> *mut u8 {
    if COPY {
        // SAFETY: the caller's promise; the store needs no alignment.
        unsafe { _mm512_storeu_si512(dst.cast(), register) };
    }
    dst.wrapping_add(size_of::<Block>())
}

/// As [`put`] for the registers of a turn.
///
/// # Safety
/// If `COPY`, 256 bytes can be written at `dst`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put_turn<const COPY: bool>(registers: [__m512i; WIDTH], mut dst: *mut u8) -> *mut u8 {
    for register in registers {
        // SAFETY: four registers of 64 bytes, one after the other.
        dst = unsafe { put::<COPY>(register, dst) };
    }
    dst
}

/// The same constants for all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(keys: &[u64; 2]) -> __m512i {
    // SAFETY: two words are 16 bytes; the load needs no alignment.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(keys.as_ptr().cast()) })
}

/// The lanes of `sum` moved by `keys`, plus `next`.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn fold(sum: __m512i, keys: __m512i, next: __m512i) -> __m512i {
    let low = _mm512_clmulepi64_epi128::<0x00>(sum, keys);
    let high = _mm512_clmulepi64_epi128::<0x11>(sum, keys);
    // The sum of three.
    _mm512_ternarylogic_epi64::<0x96>(low, high, next)
}

#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn fold_turn(sums: [__m512i; WIDTH], next: [__m512i; WIDTH]) -> [__m512i; WIDTH] {
    let over = broadcast(&TURN);
    [
        fold(sums[0], over, next[0]),
        fold(sums[1], over, next[1]),
        fold(sums[2], over, next[2]),
        fold(sums[3], over, next[3]),
    ]
}

/// The oldest of the registers is folded onto `next`, which becomes the newest.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn fold_one(sums: [__m512i; WIDTH], next: __m512i) -> [__m512i; WIDTH] {
    [sums[1], sums[2], sums[3], fold(sums[0], broadcast(&TURN), next)]
}

/// The states of the four streams, moved, as something to add to the last register.
#[inline]
#[target_feature(enable = "avx512f,sse4.2,pclmulqdq")]
fn moved(states: [u64; 4], over: &[u32; 4]) -> __m512i {
    let front = _mm_xor_si128(sse42::product(states[0], over[0]), sse42::product(states[1], over[1]));
    let back = _mm_xor_si128(sse42::product(states[2], over[2]), sse42::product(states[3], over[3]));
    // The products belong to the last 64 bits of the lane.
    _mm512_zextsi128_si512(_mm_slli_si128::<8>(_mm_xor_si128(front, back)))
}

/// The remainder of four registers in a row: all lanes onto the last one, and that one divided.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq,sse4.2")]
fn divide(sums: [__m512i; WIDTH]) -> u32 {
    // SAFETY: each of the four is 64 bytes; the load needs no alignment.
    let over = |i: usize| unsafe { _mm512_loadu_si512(LAST[i].as_ptr().cast()) };
    let zero = _mm512_setzero_si512();
    let front = fold(sums[1], over(1), fold(sums[0], over(0), zero));
    let back = fold(sums[3], over(3), fold(sums[2], over(2), zero));
    let sum = _mm512_xor_si512(front, back);
    let half = _mm256_xor_si256(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum));
    let lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let state = _mm_crc32_u64(0, _mm_cvtsi128_si64(lane).cast_unsigned());
    _mm_crc32_u64(state, _mm_extract_epi64::<1>(lane).cast_unsigned()) as u32
}
