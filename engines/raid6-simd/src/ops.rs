//! The operations: arguments checked here, bytes moved by the selected [`Routines`](crate::table::Routines).

use crate::table::Sources;
use crate::{Error, Kernels, gf};

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

/// 1 to 255 sources, those that are not zero blocks `len` bytes long.
pub(crate) fn check_sources(srcs: Sources<'_>, len: usize) -> Result<(), Error> {
    if srcs.is_empty() || srcs.len() > SOURCES_MAX {
        return Err(Error::SourceCount { count: srcs.len() });
    }
    srcs.iter().flatten().try_for_each(|src| check_len(src.len(), len))
}

pub(crate) fn check_len(found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { expected, found }) }
}

/// The common length of P and Q, of which at least one must be there.
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
    pub fn xor(&self, srcs: &[Option<&[u8]>], dst: &mut [u8], mode: XorMode) -> Result<(), Error> {
        check_sources(srcs, dst.len())?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe { (self.routines().xor)(srcs, None, dst, mode == XorMode::Accumulate) };
        Ok(())
    }

    /// Whether `sum(srcs)` is zero: true for data with their P. Stops at the first column that is not.
    ///
    /// Errors: not 1 to 255 sources, or lengths that differ.
    pub fn xor_val(&self, srcs: &[Option<&[u8]>]) -> Result<bool, Error> {
        let len = srcs.iter().flatten().next().map_or(0, |src| src.len());
        check_sources(srcs, len)?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        Ok(unsafe { (self.routines().xor_val)(srcs, len) })
    }

    /// P and Q of `data`; the one that is `None` is not wanted.
    ///
    /// Errors: neither is wanted, not 1 to 255 data blocks, or lengths that differ.
    pub fn gen_pq(
        &self,
        data: &[Option<&[u8]>],
        p: Option<&mut [u8]>,
        q: Option<&mut [u8]>,
    ) -> Result<(), Error> {
        let len = parity_len(p.as_deref().map(<[u8]>::len), q.as_deref().map(<[u8]>::len))?;
        check_sources(data, len)?;
        let routines = self.routines();
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe {
            match (p, q) {
                (Some(p), None) => (routines.xor)(data, None, p, false),
                (p, q) => (routines.pq)(data, p, q, len),
            }
        }
        Ok(())
    }

    /// Brings P and Q up to date for one changed data block: `p += old + new`,
    /// `q += 2^exponent * (old + new)`. `old` and `new` may be the same or overlap.
    ///
    /// Errors: neither is given, lengths that differ, or an exponent of 255.
    pub fn pq_update(
        &self,
        old: &[u8],
        new: &[u8],
        exponent: u8,
        p: Option<&mut [u8]>,
        q: Option<&mut [u8]>,
    ) -> Result<(), Error> {
        let len = parity_len(p.as_deref().map(<[u8]>::len), q.as_deref().map(<[u8]>::len))?;
        check_len(old.len(), len)?;
        check_len(new.len(), len)?;
        if usize::from(exponent) >= SOURCES_MAX {
            return Err(Error::Exponent { exponent, blocks: SOURCES_MAX });
        }
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        unsafe { (self.routines().pq_update)(old, new, gf::exp(usize::from(exponent)), p, q) };
        Ok(())
    }

    /// Compares the given P and Q with those of `data` and says which differ. Nothing is written; stops
    /// as soon as nothing more can be found.
    ///
    /// Errors: neither is given, not 1 to 255 data blocks, or lengths that differ.
    pub fn pq_val(
        &self,
        data: &[Option<&[u8]>],
        p: Option<&[u8]>,
        q: Option<&[u8]>,
    ) -> Result<Mismatch, Error> {
        let len = parity_len(p.map(<[u8]>::len), q.map(<[u8]>::len))?;
        check_sources(data, len)?;
        // SAFETY: `self` proves the CPU features, and the lengths were checked.
        Ok(unsafe { (self.routines().pq_val)(data, p, q, len) })
    }
}
