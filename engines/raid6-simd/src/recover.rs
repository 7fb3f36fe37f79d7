//! Recovery of lost blocks: which linear system a loss leads to.
//!
//! The equations and their solutions are in [`crate::algorithm`].

use crate::ops::{check_len, check_sources};
use crate::select::Turn;
use crate::table::{Second, Solve};
use crate::{Error, Kernels, gf};

/// A lost data block, and where its bytes go.
#[derive(Debug)]
pub struct LostData<'a> {
    /// The exponent of its coefficient in Q, which is its index in the list of data blocks.
    pub exponent: u8,
    /// Destination.
    pub out: &'a mut [u8],
}

/// P or Q in a recovery.
#[derive(Debug)]
pub enum Parity<'a> {
    /// Neither a source nor wanted (the Q of RAID 4 and 5 is always this).
    Absent,
    /// Known.
    Good(&'a [u8]),
    /// Lost, and to be computed.
    Lost(&'a mut [u8]),
}

impl<'a> Parity<'a> {
    fn len(&self) -> Option<usize> {
        match self {
            Parity::Absent => None,
            Parity::Good(block) => Some(block.len()),
            Parity::Lost(block) => Some(block.len()),
        }
    }

    fn is_good(&self) -> bool {
        matches!(self, Parity::Good(_))
    }

    /// The two forms, of which at most one is there.
    fn split(self) -> (Option<&'a [u8]>, Option<&'a mut [u8]>) {
        match self {
            Parity::Absent => (None, None),
            Parity::Good(block) => (Some(block), None),
            Parity::Lost(block) => (None, Some(block)),
        }
    }
}

impl Kernels {
    /// Recovers every lost block from the others in one pass.
    ///
    /// `data` is indexed by exponent; the entries of lost blocks are `None`, and any other `None` is a
    /// block of zeroes: a block that is lost and not listed in `lost` is taken for one, and what comes out
    /// is wrong without an error. One lost data block is recovered from P if that is good, else from Q; if P or Q
    /// is lost besides, it is computed too. Two lost data blocks take P and Q. With no lost data, lost
    /// parities are computed as by [`Kernels::gen_pq`].
    ///
    /// Errors: nothing is lost, or more than the good parities can tell; not 1 to 255 data blocks; an
    /// exponent outside `data`; a lost block that is also a source or named twice; lengths that differ.
    pub fn recover(
        &self,
        data: &[Option<&[u8]>],
        lost: &mut [LostData<'_>],
        p: Parity<'_>,
        q: Parity<'_>,
    ) -> Result<(), Error> {
        check(data, lost, &p, &q)?;
        let unrecoverable = Error::Unrecoverable { data: lost.len(), p: p.is_good(), q: q.is_good() };
        let ((p, lost_p), (q, lost_q)) = (p.split(), q.split());
        match (lost, p, q, lost_p, lost_q) {
            ([], _, _, None, None) => Err(Error::NothingLost),
            ([], _, _, lost_p, lost_q) => self.gen_pq(data, lost_p, lost_q),
            ([x], Some(p), _, _, None) => {
                // SAFETY: `self` proves the CPU features, and `check` compared the lengths.
                unsafe { (self.routines(Turn::RecoverByP).xor)(data, Some(p), x.out, false, self.streams()) };
                Ok(())
            }
            ([x], Some(p), _, _, Some(q)) => {
                let (first, second) = ([1, 0], Second::FromQ(gf::exp(usize::from(x.exponent))));
                self.solve(Solve { data, p: Some(p), q: None, first, second }, x.out, Some(q));
                Ok(())
            }
            ([x], None, Some(q), lost_p, _) => {
                let inverse = gf::exp(255 - usize::from(x.exponent));
                let (first, second) = ([0, inverse], Second::FromP);
                self.solve(Solve { data, p: None, q: Some(q), first, second }, x.out, lost_p);
                Ok(())
            }
            ([x, y], Some(p), Some(q), _, _) => {
                let (gx, gy) = (gf::exp(usize::from(x.exponent)), gf::exp(usize::from(y.exponent)));
                // `1 / (2^x + 2^y)` and `2^y` times that, by logarithms: a product from the definition would
                // take a tenth of the time of a short call.
                let log = usize::from(gf::log(gx ^ gy).ok_or(unrecoverable)?);
                let (first, second) =
                    ([gf::exp(usize::from(y.exponent) + 255 - log), gf::exp(255 - log)], Second::FromP);
                self.solve(Solve { data, p: Some(p), q: Some(q), first, second }, x.out, Some(y.out));
                Ok(())
            }
            _ => Err(unrecoverable),
        }
    }

    /// Runs a system whose blocks `check` found to be of one length.
    fn solve(&self, system: Solve<'_>, out0: &mut [u8], out1: Option<&mut [u8]>) {
        let turn = match system.second {
            Second::FromP => Turn::RecoverFromP,
            Second::FromQ(_) => Turn::RecoverFromQ,
        };
        // SAFETY: `self` proves the CPU features, and `check` compared the lengths.
        unsafe { (self.routines(turn).solve)(system, out0, out1, self.streams()) }
    }
}

/// All that is refused whatever the loss is.
fn check(data: &[Option<&[u8]>], lost: &[LostData<'_>], p: &Parity<'_>, q: &Parity<'_>) -> Result<(), Error> {
    let outputs = lost.iter().map(|lost| lost.out.len());
    let mut lengths = outputs.chain(p.len()).chain(q.len());
    let len = lengths.next().ok_or(Error::NothingLost)?;
    lengths.try_for_each(|found| check_len(found, len))?;
    check_sources(data, len)?;
    for (i, LostData { exponent, .. }) in lost.iter().enumerate() {
        let exponent = *exponent;
        match data.get(usize::from(exponent)) {
            None => return Err(Error::Exponent { exponent, blocks: data.len() }),
            Some(Some(_)) => return Err(Error::LostTwice { exponent }),
            Some(None) => {}
        }
        if lost.iter().take(i).any(|other| other.exponent == exponent) {
            return Err(Error::LostTwice { exponent });
        }
    }
    Ok(())
}
