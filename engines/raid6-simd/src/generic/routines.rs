//! The table row of one ISA.

/// Defines `ROUTINES`: each routine is a function with the ISA's target features, into which the generic
/// code is inlined. The depths are registers of a column:
///
/// - `pq`: with up to 5 blocks, and with more. With page-aligned blocks, many streams share a few cache
///   sets, and a longer column uses each line before it is thrown out.
/// - `xor`: with up to 8 blocks, and with more.
/// - `update`: for one changed block.
/// - `dense`: for these numbers of blocks P+Q and its check are unrolled, with the depth of few blocks; for
///   more than 5 only if they are short.
macro_rules! routines {
    (
        $(#[$features:meta])* kernel: $kernel:expr, vector: $V:ty,
        pq: $FEW:literal / $MANY:literal, xor: $XOR_FEW:literal / $XOR_MANY:literal, update: $UPDATE:literal,
        dense: [$($dense:literal),*]
    ) => {
        pub(crate) static ROUTINES: $crate::table::Routines = $crate::table::Routines {
            kernel: $kernel, xor, xor_val, pq, pq_val, pq_update, mul_add, solve, locate,
        };

        use $crate::generic::{
            Full, Locate, MulAdd, Packed, Pq, PqUpdate, PqUpdates, PqVal, Solver, Xor, XorVal, ask_for,
            can_stream, is_short, walk,
        };
        use $crate::table::{Delta, Located, Product, Second, Solve, Sources};

        $(#[$features])*
        unsafe fn xor(
            srcs: Sources<'_>, extra: Option<&[u8]>, dst: &mut [u8], accumulate: bool, stream: bool,
        ) {
            let len = dst.len();
            let dst = dst.as_mut_ptr();
            let few = srcs.len() <= 8;
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                if stream && can_stream::<$V>(dst) {
                    ask_for::<$V>(srcs);
                    if let Some(srcs) = Full::new(srcs) {
                        walk::<$V, 1>(&mut Xor::<_, true> { srcs, extra, dst, accumulate }, len);
                    } else {
                        let mut packed = Packed::EMPTY;
                        let srcs = packed.fill(srcs);
                        walk::<$V, 1>(&mut Xor::<_, true> { srcs, extra, dst, accumulate }, len);
                    }
                    <$V as $crate::vector::Vector>::fence();
                } else if let Some(srcs) = Full::new(srcs) {
                    if few {
                        walk::<$V, $XOR_FEW>(&mut Xor::<_, false> { srcs, extra, dst, accumulate }, len);
                    } else {
                        walk::<$V, $XOR_MANY>(&mut Xor::<_, false> { srcs, extra, dst, accumulate }, len);
                    }
                } else {
                    walk::<$V, $XOR_FEW>(&mut Xor::<_, false> { srcs, extra, dst, accumulate }, len);
                }
            }
        }

        $(#[$features])*
        unsafe fn xor_val(srcs: Sources<'_>, len: usize) -> bool {
            let mut pass = XorVal { srcs, zero: true };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                if srcs.len() <= 8 {
                    walk::<$V, $XOR_FEW>(&mut pass, len);
                } else {
                    walk::<$V, $XOR_MANY>(&mut pass, len);
                }
            }
            pass.zero
        }

        $(#[$features])*
        unsafe fn pq(
            data: Sources<'_>, p: Option<&mut [u8]>, q: Option<&mut [u8]>, len: usize, stream: bool,
        ) {
            let (p, q) = (p.map(|p| p.as_mut_ptr()), q.map(|q| q.as_mut_ptr()));
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                if stream && [p, q].into_iter().flatten().all(|dst| can_stream::<$V>(dst)) {
                    ask_for::<$V>(data);
                    $(
                        if let Some(data) = $crate::generic::Dense::<$dense>::new(data) {
                            walk::<$V, 1>(&mut Pq::<_, true> { data, p, q }, len);
                            <$V as $crate::vector::Vector>::fence();
                            return;
                        }
                    )*
                    if let Some(data) = Full::new(data) {
                        walk::<$V, 1>(&mut Pq::<_, true> { data, p, q }, len);
                    } else {
                        let mut packed = Packed::EMPTY;
                        let data = packed.fill(data);
                        walk::<$V, 1>(&mut Pq::<_, true> { data, p, q }, len);
                    }
                    <$V as $crate::vector::Vector>::fence();
                    return;
                }
                $(
                    if ($dense <= 5 || is_short($dense, len))
                        && let Some(data) = $crate::generic::Dense::<$dense>::new(data)
                    {
                        walk::<$V, $FEW>(&mut Pq::<_, false> { data, p, q }, len);
                        return;
                    }
                )*
                if data.len() <= 5 {
                    walk::<$V, $FEW>(&mut Pq::<_, false> { data, p, q }, len);
                } else if let Some(data) = Full::new(data) {
                    walk::<$V, $MANY>(&mut Pq::<_, false> { data, p, q }, len);
                } else {
                    walk::<$V, $MANY>(&mut Pq::<_, false> { data, p, q }, len);
                }
            }
        }

        $(#[$features])*
        unsafe fn pq_val(
            data: Sources<'_>, p: Option<&[u8]>, q: Option<&[u8]>, len: usize,
        ) -> $crate::Mismatch {
            let found = $crate::Mismatch::default();
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                $(
                    if ($dense <= 5 || is_short($dense, len))
                        && let Some(data) = $crate::generic::Dense::<$dense>::new(data)
                    {
                        let mut pass = PqVal { data, p, q, found };
                        walk::<$V, $FEW>(&mut pass, len);
                        return pass.found;
                    }
                )*
                if data.len() > 5
                    && let Some(data) = Full::new(data)
                {
                    let mut pass = PqVal { data, p, q, found };
                    walk::<$V, $MANY>(&mut pass, len);
                    return pass.found;
                }
                let mut pass = PqVal { data, p, q, found };
                if data.len() <= 5 {
                    walk::<$V, $FEW>(&mut pass, len);
                } else {
                    walk::<$V, $MANY>(&mut pass, len);
                }
                pass.found
            }
        }

        $(#[$features])*
        unsafe fn pq_update(deltas: &[Delta<'_>], p: Option<&mut [u8]>, q: Option<&mut [u8]>, len: usize) {
            let (p, q) = (p.map(|p| p.as_mut_ptr()), q.map(|q| q.as_mut_ptr()));
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                if let ([Delta { exponent, old: Some(old), new: Some(new) }], Some(p), Some(q)) = (deltas, p, q) {
                    let coefficient = <$V as $crate::vector::Vector>::coefficient($crate::gf::exp(usize::from(*exponent)));
                    let (old, new) = (old.as_ptr(), new.as_ptr());
                    walk::<$V, $UPDATE>(&mut PqUpdate::<$V> { old, new, coefficient, p, q }, len);
                } else {
                    walk::<$V, $FEW>(&mut PqUpdates { deltas, p, q }, len);
                }
            }
        }

        $(#[$features])*
        unsafe fn mul_add(terms: &[Product<'_>], dst: &mut [u8]) {
            let mut pass = MulAdd { terms, dst: dst.as_mut_ptr() };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe { walk::<$V, 4>(&mut pass, dst.len()) }
        }

        $(#[$features])*
        unsafe fn solve(system: Solve<'_>, out0: &mut [u8], out1: Option<&mut [u8]>, stream: bool) {
            let stream = stream
                && can_stream::<$V>(out0.as_ptr())
                && out1.as_ref().is_none_or(|out1| can_stream::<$V>(out1.as_ptr()));
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                match (system.second, stream) {
                    (Second::FromP, false) => solve_as::<false, false>(system, 0, out0, out1),
                    (Second::FromP, true) => solve_as::<false, true>(system, 0, out0, out1),
                    (Second::FromQ(c), false) => solve_as::<true, false>(system, c, out0, out1),
                    (Second::FromQ(c), true) => solve_as::<true, true>(system, c, out0, out1),
                }
            }
        }

        $(#[$features])*
        unsafe fn solve_as<const FROM_Q: bool, const STREAM: bool>(
            system: Solve<'_>, second: u8, out0: &mut [u8], out1: Option<&mut [u8]>,
        ) {
            let Solve { data, p, q, first, .. } = system;
            let len = out0.len();
            let (out0, out1) = (out0.as_mut_ptr(), out1.map(|out| out.as_mut_ptr()));
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                let first = [<$V as $crate::vector::Vector>::coefficient(first[0]), <$V as $crate::vector::Vector>::coefficient(first[1])];
                let second = <$V as $crate::vector::Vector>::coefficient(second);
                if STREAM {
                    ask_for::<$V>(data);
                    let mut packed = Packed::EMPTY;
                    let data = packed.fill(data);
                    let mut pass = Solver::<_, $V, FROM_Q, true> { data, p, q, first, second, out0, out1 };
                    walk::<$V, 1>(&mut pass, len);
                    <$V as $crate::vector::Vector>::fence();
                    return;
                }
                let mut pass = Solver::<_, $V, FROM_Q, false> { data, p, q, first, second, out0, out1 };
                if data.len() <= 5 {
                    walk::<$V, $FEW>(&mut pass, len);
                } else {
                    walk::<$V, $MANY>(&mut pass, len);
                }
            }
        }

        $(#[$features])*
        unsafe fn locate(data: Sources<'_>, p: &[u8], q: &[u8]) -> Located {
            let found = Located::Nothing;
            let mut pass = Locate::<_, $V> { data, p, q, blocks: data, found, coefficient: None };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe { walk::<$V, 4>(&mut pass, p.len()) };
            pass.found
        }
    };
}
pub(crate) use routines;
