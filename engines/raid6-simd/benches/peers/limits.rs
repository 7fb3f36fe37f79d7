//! Loops that read and write the blocks that an operation reads and writes, and only xor between: what the
//! machine's loads and stores allow, as far as the best of many loops can tell.
//!
//! Every output is written with the xor of all inputs; without outputs the xor goes nowhere. As in any good
//! kernel, one pass handles a column of a few registers across all blocks, and loads all of it before it
//! stores anything.

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use none::{available, bind};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{available, bind};

/// For CPUs that no loop is written for.
#[cfg(not(target_arch = "x86_64"))]
mod none {
    use crate::cell::Cell;
    use crate::contenders::Contender;

    pub(crate) fn available() -> bool {
        false
    }

    pub(crate) fn bind<'a>(_: &Cell<'a>) -> Vec<Contender<'a>> {
        Vec::new()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use crate::cell::Cell;
    use crate::contenders::{Contender, Role, cycle};
    use crate::memory::part;

    /// One pass over a stripe: inputs, outputs, and the length of a block, a multiple of 512 bytes.
    ///
    /// # Safety
    /// The CPU has the registers; every block has so many bytes at an alignment of 64; no reference to an
    /// output exists; as many blocks as the loop's constants say.
    type Pass = unsafe fn(&[*mut u8], &[*mut u8], usize);

    /// A loop, and what tells it from the others.
    struct Loop {
        name: String,
        pass: Pass,
    }

    /// A vector register. All functions need its CPU feature, and the pointers as [`Pass`] has them.
    trait Register: Copy {
        const BYTES: usize;
        unsafe fn zero() -> Self;
        unsafe fn load(from: *const u8) -> Self;
        unsafe fn xor(self, other: Self) -> Self;
        unsafe fn store(self, to: *mut u8);
        unsafe fn stream(self, to: *mut u8);
    }

    macro_rules! register {
        ($register:ident, $zero:ident, $load:ident, $xor:ident, $store:ident, $stream:ident) => {
            impl Register for $register {
                const BYTES: usize = size_of::<$register>();
                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the trait's caller has the CPU feature.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn load(from: *const u8) -> Self {
                    // SAFETY: the trait's caller has the CPU feature and a readable register's width.
                    unsafe { $load(from.cast()) }
                }
                #[inline(always)]
                unsafe fn xor(self, other: Self) -> Self {
                    // SAFETY: the trait's caller has the CPU feature.
                    unsafe { $xor(self, other) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut u8) {
                    // SAFETY: the trait's caller has the CPU feature and a writable register's width.
                    unsafe { $store(to.cast(), self) }
                }
                #[inline(always)]
                unsafe fn stream(self, to: *mut u8) {
                    // SAFETY: as for `store`, and `to` is aligned.
                    unsafe { $stream(to.cast(), self) }
                }
            }
        };
    }
    register!(
        __m256i,
        _mm256_setzero_si256,
        _mm256_load_si256,
        _mm256_xor_si256,
        _mm256_store_si256,
        _mm256_stream_si256
    );
    register!(
        __m512i,
        _mm512_setzero_si512,
        _mm512_load_si512,
        _mm512_xor_si512,
        _mm512_store_si512,
        _mm512_stream_si512
    );

    /// `N` inputs (0: as many as there are), `DEPTH` registers a column, `OUTPUTS` outputs.
    ///
    /// # Safety
    /// See [`Pass`].
    #[inline(always)]
    unsafe fn pass<R: Register, const N: usize, const DEPTH: usize, const OUTPUTS: usize, const NT: bool>(
        inputs: &[*mut u8],
        outputs: &[*mut u8],
        len: usize,
    ) {
        let inputs = if N == 0 { inputs } else { &inputs[..N] };
        let outputs = &outputs[..OUTPUTS];
        // SAFETY: every offset is below `len`, for DEPTH registers divide it; the rest is the caller's
        // promise.
        unsafe {
            let mut sum = [R::zero(); DEPTH];
            for at in (0..len).step_by(DEPTH * R::BYTES) {
                for (i, input) in inputs.iter().enumerate() {
                    for (depth, sum) in sum.iter_mut().enumerate() {
                        let loaded = R::load(input.add(at + depth * R::BYTES));
                        *sum = if i == 0 && OUTPUTS > 0 { loaded } else { sum.xor(loaded) };
                    }
                }
                for output in outputs {
                    for (depth, sum) in sum.iter().enumerate() {
                        let to = output.add(at + depth * R::BYTES);
                        if NT { sum.stream(to) } else { sum.store(to) }
                    }
                }
            }
            if NT {
                _mm_sfence();
            }
            if OUTPUTS == 0 {
                black_box(sum.into_iter().fold(R::zero(), |all, one| all.xor(one)));
            }
        }
    }

    /// A kind of register, with the CPU feature switched on around [`pass`].
    trait Isa {
        const NAME: &str;
        fn pass<const N: usize, const DEPTH: usize, const OUTPUTS: usize, const NT: bool>() -> Pass;
    }

    macro_rules! isa {
        ($isa:ident, $function:ident, $register:ident, $feature:literal) => {
            struct $isa;
            impl Isa for $isa {
                const NAME: &str = $feature;
                fn pass<const N: usize, const DEPTH: usize, const OUTPUTS: usize, const NT: bool>() -> Pass {
                    $function::<N, DEPTH, OUTPUTS, NT>
                }
            }
            /// # Safety
            /// See [`Pass`].
            #[target_feature(enable = $feature)]
            unsafe fn $function<const N: usize, const DEPTH: usize, const OUTPUTS: usize, const NT: bool>(
                inputs: &[*mut u8],
                outputs: &[*mut u8],
                len: usize,
            ) {
                // SAFETY: the feature is on, and the rest is the caller's promise.
                unsafe { pass::<$register, N, DEPTH, OUTPUTS, NT>(inputs, outputs, len) }
            }
        };
    }
    isa!(Avx2, avx2, __m256i, "avx2");
    isa!(Avx512, avx512, __m512i, "avx512f");

    /// The loops of the widest registers that this CPU has, by number of inputs and outputs.
    fn loops() -> Option<fn(usize, usize) -> Vec<Loop>> {
        if is_x86_feature_detected!("avx512f") {
            Some(all::<Avx512>)
        } else if is_x86_feature_detected!("avx2") {
            Some(all::<Avx2>)
        } else {
            None
        }
    }

    fn all<I: Isa>(inputs: usize, outputs: usize) -> Vec<Loop> {
        let mut loops = Vec::new();
        match outputs {
            0 => depths::<I, 0, 0>(&mut loops),
            1 => depths::<I, 0, 1>(&mut loops),
            _ => depths::<I, 0, 2>(&mut loops),
        }
        match (inputs, outputs) {
            (5, 0) => depths::<I, 5, 0>(&mut loops),
            (6, 0) => depths::<I, 6, 0>(&mut loops),
            (9, 0) => depths::<I, 9, 0>(&mut loops),
            (10, 0) => depths::<I, 10, 0>(&mut loops),
            (17, 0) => depths::<I, 17, 0>(&mut loops),
            (18, 0) => depths::<I, 18, 0>(&mut loops),
            (4, 1) => depths::<I, 4, 1>(&mut loops),
            (8, 1) => depths::<I, 8, 1>(&mut loops),
            (16, 1) => depths::<I, 16, 1>(&mut loops),
            (4, 2) => depths::<I, 4, 2>(&mut loops),
            (8, 2) => depths::<I, 8, 2>(&mut loops),
            (16, 2) => depths::<I, 16, 2>(&mut loops),
            _ => {}
        }
        loops
    }

    /// All depths, and without and with non-temporal stores where anything is stored.
    fn depths<I: Isa, const N: usize, const OUTPUTS: usize>(loops: &mut Vec<Loop>) {
        let mut add = |depth: usize, cached: Pass, streaming: Pass| {
            let name =
                format!("{} n={} x{depth}", I::NAME, if N == 0 { "any".into() } else { N.to_string() });
            if OUTPUTS > 0 {
                loops.push(Loop { name: format!("{name} nt"), pass: streaming });
            }
            loops.push(Loop { name, pass: cached });
        };
        add(1, I::pass::<N, 1, OUTPUTS, false>(), I::pass::<N, 1, OUTPUTS, true>());
        add(2, I::pass::<N, 2, OUTPUTS, false>(), I::pass::<N, 2, OUTPUTS, true>());
        add(4, I::pass::<N, 4, OUTPUTS, false>(), I::pass::<N, 4, OUTPUTS, true>());
        add(8, I::pass::<N, 8, OUTPUTS, false>(), I::pass::<N, 8, OUTPUTS, true>());
    }

    /// Whether this CPU has any of the loops.
    pub(crate) fn available() -> bool {
        loops().is_some()
    }

    /// All loops for what the cell's operation reads and writes.
    pub(crate) fn bind<'a>(cell: &Cell<'a>) -> Vec<Contender<'a>> {
        let (inputs, outputs) = (cell.inputs(), cell.outputs());
        let loops = loops().map_or_else(Vec::new, |loops| loops(inputs.len(), outputs.len()));
        loops.into_iter().map(|one| contender(cell, one, &inputs, &outputs)).collect()
    }

    fn contender<'a>(cell: &Cell<'a>, one: Loop, inputs: &[usize], outputs: &[usize]) -> Contender<'a> {
        let sources: Vec<_> = cell.stripes().flat_map(|s| cell.pointers(s, inputs)).collect();
        let targets: Vec<_> = cell.stripes().flat_map(|s| cell.pointers(s, outputs)).collect();
        let (reads, writes, len, pass) = (inputs.len(), outputs.len(), cell.len, one.pass);
        let run = cycle(cell, move |stripe| {
            let sources = part(&sources, stripe, reads);
            let targets = part(&targets, stripe, writes);
            // SAFETY: `loops` found the CPU feature; the blocks are whole pages of the pool, in the numbers
            // that the loop was chosen for, and no reference to an output is kept.
            unsafe { pass(sources, targets, len) };
            true
        });
        Contender { name: one.name, role: Role::Limit, bytes: cell.counted(), run }
    }
}
