//! The operations: arguments checked here, bytes moved by the selected [`Routines`](crate::table::Routines).

use crate::select::Turn;
use crate::table::Sources;
use crate::{Error, Kernels};

/// The most sources that an operation takes: the exponents 0 to 254.
pub const SOURCES_MAX: usize = 255;

/// What happens to the old bytes of the destination of [`Kernels::xor`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum XorMode {
    /// They are replaced by the sum of the sources.
    Overwrite,
    /// The sum of the sources is added to them.
    Accumulate,
}

/// What [`Kernels::pq_val`] found. A parity that was not given is never found bad.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mismatch {
    /// P is not the P of the data.
    pub p: bool,
    /// Q is not the Q of the data.
    pub q: bool,
}

/// A data block that changed, for [`Kernels::pq_update`].
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The exponent of its coefficient in Q, which is its index among the data blocks.
    pub exponent: u8,
    /// The bytes that P and Q were computed from; `None` is a block of zeroes.
    pub old: Option<&'a [u8]>,
    /// The bytes that they are to be of; `None` is a block of zeroes.
    pub new: Option<&'a [u8]>,
}

/// A term of the sum that [`Kernels::gf_mul_add`] adds.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// What every byte of the block is multiplied by.
    pub coefficient: u8,
    /// The block.
    pub block: &'a [u8],
}

/// What [`Kernels::locate`] found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Located {
    /// Every byte is right.
    Nothing,
    /// The data block with this exponent is wrong, and recovering it from P makes all right.
    Data(u8),
    /// P is wrong.
    P,
    /// Q is wrong.
    Q,
    /// No single block explains what is wrong.
    Several,
}

/// Where the results of an operation that only writes them should go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stores {
    /// Into the caches: right wherever they are read again soon, or fit the cache.
    #[default]
    Cached,
    /// Past the caches, where the kernel and the alignment of the destinations (64 bytes suffices for
    /// all) allow: faster where sources and results together are larger than the last-level cache, and
    /// at half the speed where they are not. Bytes are the same. Operations that also read their
    /// destination are not affected.
    Streaming,
}

/// 1 to 255 of something.
#[inline]
fn check_count(count: usize) -> Result<(), Error> {
    if count == 0 || count > SOURCES_MAX { Err(Error::SourceCount { count }) } else { Ok(()) }
}

/// 1 to 255 sources, those that are not zero blocks `len` bytes long.
#[inline]
pub(crate) fn check_sources(srcs: Sources<'_>, len: usize) -> Result<(), Error> {
    check_count(srcs.len())?;
    // Without a branch a block: a call on short blocks takes less than 100 ns, and this is part of it.
    if srcs.iter().fold(true, |good, src| good & has_len(*src, len)) {
        Ok(())
    } else {
        srcs.iter().flatten().try_for_each(|src| check_len(src.len(), len))
    }
}

/// Whether a block that is there has `len` bytes.
#[inline]
fn has_len(block: Option<&[u8]>, len: usize) -> bool {
    block.map_or(len, <[u8]>::len) == len
}

#[inline]
pub(crate) fn check_len(found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { expected, found }) }
}

/// The common length of P and Q, of which at least one must be there.
#[inline]
fn parity_len(p: Option<usize>, q: Option<usize>) -> Result<usize, Error> {
    match (p, q) {
        (Some(p), Some(q)) => check_len(q, p).map(|()| p),
        (Some(len), None) | (None, Some(len)) => Ok(len),
        (None, None) => Err(Error::NoParity),
    }
}

/// Blocks are slices of one length, which may be zero and of any alignment. Sources are indexed by
/// exponent (for a plain xor by anything); `None` is a block of zeroes and costs no memory traffic.
/// Operations with several destinations write each of them once, in one pass over the sources.
impl Kernels {
    /// `dst = sum(srcs)`, or `dst += sum(srcs)`.
    ///
    /// Errors: not 1 to 255 sources, or lengths that differ.
    #[inline]
    pub fn xor(&self, srcs: &[Option<&[u8]>], dst: &mut [u8], mode: XorMode) -> Result<(), Error> {
        check_sources(srcs, dst.len())?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe {
            let accumulate = mode == XorMode::Accumulate;
            (self.routines(Turn::Xor).xor)(srcs, None, dst, accumulate, self.streams() && !accumulate);
        }
        Ok(())
    }

    /// Whether `sum(srcs)` is zero: true for data with their P. Stops at the first column that is not.
    ///
    /// Errors: not 1 to 255 sources, or lengths that differ.
    #[inline]
    pub fn xor_val(&self, srcs: &[Option<&[u8]>]) -> Result<bool, Error> {
        let len = srcs.iter().flatten().next().map_or(0, |src| src.len());
        check_sources(srcs, len)?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        Ok(unsafe { (self.routines(Turn::XorVal).xor_val)(srcs, len) })
    }

    /// P and Q of `data`; the one that is `None` is not wanted.
    ///
    /// Errors: neither is wanted, not 1 to 255 data blocks, or lengths that differ.
    #[inline]
    pub fn gen_pq(
        &self,
        data: &[Option<&[u8]>],
        p: Option<&mut [u8]>,
        q: Option<&mut [u8]>,
    ) -> Result<(), Error> {
        let len = parity_len(p.as_deref().map(<[u8]>::len), q.as_deref().map(<[u8]>::len))?;
        check_sources(data, len)?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe {
            match (p, q) {
                (Some(p), None) => (self.routines(Turn::GenP).xor)(data, None, p, false, self.streams()),
                (p, q) => (self.routines(Turn::GenPq).pq)(data, p, q, len, self.streams()),
            }
        }
        Ok(())
    }

    /// Brings P and Q up to date for the data blocks that changed, in one pass:
    /// `p += sum(old + new)`, `q += sum(2^exponent * (old + new))`. The one that is `None` is left alone.
    ///
    /// With `old` absent this adds blocks to parities computed so far, so that P and Q can be computed in
    /// parts (of zeroes to begin with). An exponent may come more than once; `old` and `new` may be the
    /// same or overlap.
    ///
    /// Errors: neither is given, not 1 to 255 changes, lengths that differ, or an exponent of 255.
    #[inline]
    pub fn pq_update(
        &self,
        changes: &[Change<'_>],
        p: Option<&mut [u8]>,
        q: Option<&mut [u8]>,
    ) -> Result<(), Error> {
        let len = parity_len(p.as_deref().map(<[u8]>::len), q.as_deref().map(<[u8]>::len))?;
        check_count(changes.len())?;
        for change in changes {
            for block in [change.old, change.new] {
                if !has_len(block, len) {
                    return Err(Error::Length { expected: len, found: block.map_or(0, <[u8]>::len) });
                }
            }
            if usize::from(change.exponent) >= SOURCES_MAX {
                return Err(Error::Exponent { exponent: change.exponent, blocks: SOURCES_MAX });
            }
        }
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe { (self.routines(Turn::PqUpdate).pq_update)(changes, p, q, len) };
        Ok(())
    }

    /// `dst += sum(coefficient * block)`, in the field of [`crate::gf`].
    ///
    /// Errors: not 1 to 255 terms, or lengths that differ.
    #[inline]
    pub fn gf_mul_add(&self, terms: &[Product<'_>], dst: &mut [u8]) -> Result<(), Error> {
        check_count(terms.len())?;
        terms.iter().try_for_each(|term| check_len(term.block.len(), dst.len()))?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe { (self.routines(Turn::MulAdd).mul_add)(terms, dst) };
        Ok(())
    }

    /// Finds the one block, of `data`, P and Q, that is not what the others say.
    ///
    /// Every byte has a verdict of its own: it is right, or one block alone explains it. If all bytes that
    /// are wrong name the same block, that is the answer. It is right if no more than one block is wrong.
    /// Two blocks wrong at the same byte look like one other block with a chance of one in 255 for each
    /// block, so the more bytes are wrong, the surer the answer ([`crate::algorithm`]). A block that is
    /// `None` is never named. P and Q that are both wrong by the same amount look like data block 0.
    ///
    /// To mend data block `z`, [`Kernels::recover`] it from P with `None` in its place, and check again.
    ///
    /// Errors: not 1 to 255 data blocks, or lengths that differ.
    pub fn locate(&self, data: &[Option<&[u8]>], p: &[u8], q: &[u8]) -> Result<Located, Error> {
        check_len(q.len(), p.len())?;
        check_sources(data, p.len())?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        Ok(unsafe { (self.routines(Turn::Locate).locate)(data, p, q) })
    }

    /// Compares the given P and Q with those of `data` and says which differ. Nothing is written; stops
    /// as soon as nothing more can be found.
    ///
    /// Errors: neither is given, not 1 to 255 data blocks, or lengths that differ.
    #[inline]
    pub fn pq_val(
        &self,
        data: &[Option<&[u8]>],
        p: Option<&[u8]>,
        q: Option<&[u8]>,
    ) -> Result<Mismatch, Error> {
        let len = parity_len(p.map(<[u8]>::len), q.map(<[u8]>::len))?;
        check_sources(data, len)?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        Ok(unsafe { (self.routines(Turn::PqVal).pq_val)(data, p, q, len) })
    }

    /// The CRC-32C (Castagnoli; RFC 3720, section 12.1) of a message that begins with one whose CRC is
    /// `crc`, 0 if it is empty, and goes on with `bytes`.
    ///
    /// ```
    /// # let kernels = raid6_simd::Kernels::auto();
    /// assert_eq!(kernels.crc32c(0, b"123456789"), 0xe306_9283);
    /// assert_eq!(kernels.crc32c(kernels.crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    /// ```
    #[inline]
    pub fn crc32c(&self, crc: u32, bytes: &[u8]) -> u32 {
        // SAFETY: `self` proves the CPU features.
        unsafe { (self.crc(Turn::Crc).crc32c)(crc, bytes) }
    }

    /// Copies `src` to `dst` in the same pass as it computes what [`Kernels::crc32c`] does.
    ///
    /// Errors: lengths that differ.
    #[inline]
    pub fn copy_crc32c(&self, crc: u32, src: &[u8], dst: &mut [u8]) -> Result<u32, Error> {
        check_len(dst.len(), src.len())?;
        // SAFETY: `self` proves the CPU features.
        Ok(unsafe { (self.crc(Turn::CopyCrc).copy_crc32c)(crc, src, dst) })
    }
}
