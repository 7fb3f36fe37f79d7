//! The `crc32` instruction of SSE4.2 in three streams, merged with PCLMULQDQ.
//!
//! ```text
//! | first: n words | second: n words | third: n words |  and so on, at last a few words and bytes
//! ```
//!
//! The instruction takes three cycles and a new one can start every cycle, so three chains of it that do
//! not depend on each other run in the time of one. The three start at zero and so need not wait for the
//! state before them either. At the end that state, the first stream's and the second's are moved over what
//! follows them, which takes a multiplication each.

use std::arch::x86_64::*;
use std::ptr::null_mut;

use super::Routines;
use super::power::move_over;

/// Proof that the CPU has SSE4.2 and PCLMULQDQ: [`Sse42::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(super) struct Sse42(());

impl Sse42 {
    /// `Some` if this CPU supports SSE4.2 and PCLMULQDQ.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq");
        found.then_some(Sse42(()))
    }

    /// The implementation, which the token allows to be called.
    pub(super) fn routines(self) -> &'static Routines {
        &ROUTINES
    }
}

/// The name of the implementation.
pub(super) const NAME: &str = "sse42";

static ROUTINES: Routines = Routines { name: NAME, crc32c, copy_crc32c };

/// Eight bytes, which the instruction takes at once.
type Word = [u8; 8];

/// Words of a stream where there are many: enough to make little of the merge, and few enough for
/// memory to be read nearly in order, which is what a CPU's prefetcher wants.
const MANY: usize = 16;
/// Words of a stream where there are few: with fewer the merge would cost more than the streams save.
const FEW: usize = 4;

#[target_feature(enable = "sse4.2,pclmulqdq")]
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: nothing is copied.
    !unsafe { update::<false>(!crc, bytes, null_mut()) }
}

#[target_feature(enable = "sse4.2,pclmulqdq")]
fn copy_crc32c(crc: u32, src: &[u8], dst: &mut [u8]) -> u32 {
    let src = &src[..src.len().min(dst.len())];
    // SAFETY: `dst` is not shorter than `src`.
    !unsafe { update::<true>(!crc, src, dst.as_mut_ptr()) }
}

/// The state after `src`, which is copied to `dst` if `COPY`.
///
/// # Safety
/// If `COPY`, as many bytes as `src` has can be written at `dst`, and none of them is in `src`.
#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
pub(super) unsafe fn update<const COPY: bool>(state: u32, src: &[u8], mut dst: *mut u8) -> u32 {
    let (mut words, tail) = src.as_chunks::<8>();
    let mut state = u64::from(state);
    // SAFETY: `dst` has room for `src` and moves on as that is taken.
    unsafe {
        while let Some((go, rest)) = words.split_first_chunk::<{ 3 * MANY }>() {
            state = three_streams::<COPY, MANY>(state, go, dst);
            (words, dst) = (rest, dst.wrapping_add(size_of_val(go)));
        }
        while let Some((go, rest)) = words.split_first_chunk::<{ 3 * FEW }>() {
            state = three_streams::<COPY, FEW>(state, go, dst);
            (words, dst) = (rest, dst.wrapping_add(size_of_val(go)));
        }
        for word in words {
            put::<COPY, _>(word, dst);
            dst = dst.wrapping_add(size_of_val(word));
            state = step(state, word);
        }
        by_bytes::<COPY>(state as u32, tail, dst)
    }
}

/// The state after three streams of `N` words.
///
/// # Safety
/// As for [`update`].
#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
unsafe fn three_streams<const COPY: bool, const N: usize>(state: u64, words: &[Word], dst: *mut u8) -> u64 {
    // None of the streams waits for the state before them, which is moved over all three.
    let mut states = [0; 3];
    for i in 0..N {
        for (stream, state) in states.iter_mut().enumerate() {
            let at = stream * N + i;
            // SAFETY: the streams are `3 * N` words.
            unsafe { put::<COPY, _>(&words[at], dst.wrapping_add(8 * at)) };
            *state = step(*state, &words[at]);
        }
    }
    let moved = [
        product(state, const { move_over(3 * 8 * N) }),
        product(states[0], const { move_over(2 * 8 * N) }),
        product(states[1], const { move_over(8 * N) }),
    ];
    let sum = _mm_xor_si128(_mm_xor_si128(moved[0], moved[1]), moved[2]);
    _mm_crc32_u64(0, _mm_cvtsi128_si64(sum).cast_unsigned()) ^ states[2]
}

/// Copies `bytes` to `dst` if `COPY`.
///
/// # Safety
/// If `COPY`, `N` bytes can be written at `dst`.
#[inline(always)]
pub(super) unsafe fn put<const COPY: bool, const N: usize>(bytes: &[u8; N], dst: *mut u8) {
    if COPY {
        // SAFETY: the caller's promise; bytes need no alignment.
        unsafe { dst.cast::<[u8; N]>().write(*bytes) };
    }
}

/// The state after a word.
#[inline]
#[target_feature(enable = "sse4.2")]
pub(super) fn step(state: u64, word: &Word) -> u64 {
    _mm_crc32_u64(state, u64::from_le_bytes(*word))
}

/// The carry-less product of a state and a constant, 63 bits.
#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
pub(super) fn product(state: u64, constant: u32) -> __m128i {
    let register = |value: u32| _mm_cvtsi32_si128(value.cast_signed());
    _mm_clmulepi64_si128::<0>(register(state as u32), register(constant))
}

/// The state after fewer than eight bytes.
///
/// # Safety
/// As for [`update`].
#[inline]
#[target_feature(enable = "sse4.2")]
unsafe fn by_bytes<const COPY: bool>(mut state: u32, src: &[u8], mut dst: *mut u8) -> u32 {
    // SAFETY: `dst` has room for `src`, and is moved on by what was taken of it.
    unsafe {
        let mut rest = src;
        if let Some((four, after)) = rest.split_first_chunk() {
            put::<COPY, 4>(four, dst);
            state = _mm_crc32_u32(state, u32::from_le_bytes(*four));
            (rest, dst) = (after, dst.wrapping_add(4));
        }
        if let Some((two, after)) = rest.split_first_chunk() {
            put::<COPY, 2>(two, dst);
            state = _mm_crc32_u16(state, u16::from_le_bytes(*two));
            (rest, dst) = (after, dst.wrapping_add(2));
        }
        if let Some(one) = rest.first_chunk() {
            put::<COPY, 1>(one, dst);
            state = _mm_crc32_u8(state, one[0]);
        }
        state
    }
}
