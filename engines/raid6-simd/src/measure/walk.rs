//! The stripes of a working set, cut out beforehand, so that what is timed is the operations alone.

use super::{MeasureError, Shape, Work};
use crate::{Change, Error, Kernels, LostData, Mismatch, Parity, XorMode};

/// The stripes, which calls take one after the other in a circle, whoever calls.
pub(super) struct Walk<'a> {
    work: Work,
    stripes: Vec<Stripe<'a>>,
    next: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(memory: &'a mut [u8], shape: Shape, work: Work) -> Result<Self, MeasureError> {
        let stripe = work.blocks(shape).saturating_mul(shape.block_len).max(1);
        let mut stripes = Vec::new();
        reserve(&mut stripes, memory.len() / stripe)?;
        for stripe in memory.chunks_exact_mut(stripe) {
            stripes.extend(Stripe::cut(stripe, shape.block_len, work)?);
        }
        Ok(Walk { work, stripes, next: 0 })
    }

    /// How many calls go once around.
    pub(super) fn len(&self) -> usize {
        self.stripes.len()
    }

    /// So many calls, each on the next stripe.
    pub(super) fn run(&mut self, kernels: &Kernels, calls: u32) -> Result<(), MeasureError> {
        for _ in 0..calls {
            if self.next >= self.stripes.len() {
                self.next = 0;
            }
            if let Some(stripe) = self.stripes.get_mut(self.next) {
                stripe.call(kernels, self.work)?;
            }
            self.next += 1;
        }
        Ok(())
    }
}

/// Room for so many elements, or an error where a push would abort.
fn reserve<T>(list: &mut Vec<T>, count: usize) -> Result<(), MeasureError> {
    let bytes = count.saturating_mul(size_of::<T>());
    list.try_reserve_exact(count).map_err(|_| MeasureError::Memory { bytes })
}

/// The blocks of one call.
struct Stripe<'a> {
    p: &'a mut [u8],
    q: &'a mut [u8],
    /// Where the data blocks with the exponents 0 and 1 go when they are recovered.
    lost: [&'a mut [u8]; 2],
    data: Vec<Option<&'a [u8]>>,
}

impl<'a> Stripe<'a> {
    /// None if there are too few blocks, which no checked shape leads to.
    fn cut(memory: &'a mut [u8], block_len: usize, work: Work) -> Result<Option<Self>, MeasureError> {
        let mut data = Vec::new();
        reserve(&mut data, memory.len() / block_len.max(1))?;
        let mut blocks = memory.chunks_exact_mut(block_len.max(1));
        let Some(p) = blocks.next() else { return Ok(None) };
        let mut others = || blocks.next().unwrap_or_default();
        let q = if work == Work::Xor { Default::default() } else { others() };
        let mut lost = <[&mut [u8]; 2]>::default();
        if work == Work::RecoverTwo {
            lost = [others(), others()];
            data.resize(2, None);
        }
        data.extend(blocks.map(|block| Some(&*block)));
        Ok(Some(Stripe { p, q, lost, data }))
    }

    fn call(&mut self, kernels: &Kernels, work: Work) -> Result<(), MeasureError> {
        match work {
            Work::GenPq => kernels.gen_pq(&self.data, Some(self.p), Some(self.q))?,
            Work::Xor => kernels.xor(&self.data, self.p, XorMode::Overwrite)?,
            Work::CheckPq => {
                if kernels.pq_val(&self.data, Some(self.p), Some(self.q))? != Mismatch::default() {
                    return Err(MeasureError::Wrong);
                }
            }
            Work::RecoverTwo => self.recover(kernels)?,
            Work::Update => self.update(kernels)?,
        }
        Ok(())
    }

    fn recover(&mut self, kernels: &Kernels) -> Result<(), Error> {
        let [x, y] = &mut self.lost;
        let mut lost = [LostData { exponent: 0, out: x }, LostData { exponent: 1, out: y }];
        kernels.recover(&self.data, &mut lost, Parity::Good(self.p), Parity::Good(self.q))
    }

    /// The two data blocks are the old and the new form of one. Its exponent is neither of the first two,
    /// which some implementations could be quicker with.
    fn update(&mut self, kernels: &Kernels) -> Result<(), Error> {
        let block = |i: usize| self.data.get(i).copied().flatten();
        let change = Change { exponent: 5, old: block(0), new: block(1) };
        kernels.pq_update(&[change], Some(self.p), Some(self.q))
    }
}
