//! The chain engine's CPU backend over raid6-simd: every operation, of any size, at once, on the calling
//! thread.
//!
//! It turns the regions of a checked operation into slices and calls the kernels. Checked means that no
//! destination shares a byte with another operand, which is what makes `&mut` of a destination and `&` of
//! the sources sound. In-place forms never need two slices of one block: an accumulating xor and an
//! update of P and Q take the block as their one destination.
//!
//! # The example of the async_tx document
//!
//! xor -> copy -> xor, each of which depends on the one before, and a callback when the last has ended:
//!
//! ```
//! use std::error::Error;
//! use std::sync::Arc;
//! use std::sync::mpsc::channel;
//!
//! use async_tx::{ChainDone, Done, Engine, Op, Region, Submit, XorMode};
//! use engine_cpu::CpuBackend;
//!
//! fn run_xor_copy_xor(
//!     engine: &mut Engine,
//!     xor_srcs: &[Region],
//!     xor_dest: Region,
//!     copy_src: Region,
//!     copy_dest: Region,
//! ) -> Result<(), Box<dyn Error>> {
//!     let xor = Op::Xor { srcs: xor_srcs, dst: xor_dest, mode: XorMode::Accumulate };
//!     let mut chain = engine.chain();
//!     chain.push(xor, &[])?;
//!     let tx = engine.submit_tx(chain, Submit::default());
//!
//!     let mut chain = engine.chain();
//!     chain.push(Op::Copy { src: copy_src, dst: copy_dest }, &[])?;
//!     let tx = engine.submit_tx(chain, Submit { after: [tx], done: Done::None });
//!
//!     let (complete, completion) = channel();
//!     let callback = Arc::new(move |done: ChainDone| drop(complete.send(done.result)));
//!     let mut chain = engine.chain();
//!     chain.push(xor, &[])?;
//!     engine.submit_tx(chain, Submit { after: [tx], done: Done::Callback(callback) }).ack();
//!
//!     let ended = loop {
//!         // What ended may have released more: it is issued each time round.
//!         engine.issue_pending_all();
//!         engine.poll(&mut Vec::new());
//!         if let Ok(ended) = completion.try_recv() {
//!             break ended;
//!         }
//!     };
//!     ended?;
//!     Ok(())
//! }
//!
//! let mut memory: Vec<u8> = (0..4 * 512).map(|i| (i * i / 7) as u8).collect();
//! let before = memory.clone();
//! let base = memory.as_mut_ptr();
//! // SAFETY: blocks of `memory`, which outlives the chains and is not touched before they have ended.
//! let [a, b, dest, copy] = [0, 1, 2, 3].map(|i| unsafe { Region::new(base.add(i * 512), 512) });
//! let mut engine = Engine::new(Box::new(CpuBackend::auto()));
//! run_xor_copy_xor(&mut engine, &[a, b], dest, dest, copy)?;
//! // What was copied is the sum; what was summed twice is as it was.
//! assert!((0..512).all(|i| memory[3 * 512 + i] == before[i] ^ before[512 + i] ^ before[1024 + i]));
//! assert_eq!(memory[1024..][..512], before[1024..][..512]);
//! # Ok::<(), Box<dyn Error>>(())
//! ```
//!
//! # The same as one chain
//!
//! ```
//! use async_tx::{Engine, Op, Region, Verdict, XorMode};
//! use engine_cpu::CpuBackend;
//!
//! let mut engine = Engine::new(Box::new(CpuBackend::auto()));
//! let mut memory = vec![0u8; 4 * 512];
//! let base = memory.as_mut_ptr();
//! // SAFETY: blocks of `memory`, which outlives the chain and is not touched before that was run.
//! let [a, b, c, d] = [0, 1, 2, 3].map(|i| unsafe { Region::new(base.add(i * 512), 512) });
//!
//! let mut chain = engine.chain();
//! chain.push(Op::Fill { dst: a, byte: 0x0f }, &[])?;
//! let xor = chain.push(Op::Xor { srcs: &[a, b], dst: c, mode: XorMode::Overwrite }, &[])?;
//! let copy = chain.push(Op::Copy { src: c, dst: d }, &[xor])?;
//! chain.push(Op::Xor { srcs: &[a, c], dst: d, mode: XorMode::Accumulate }, &[copy])?;
//! // And a check of the result.
//! chain.push_next(Op::XorVal { srcs: &[a, d] })?;
//!
//! // `submit` and `poll` give the same, for chains that may take time.
//! assert_eq!(engine.run(chain)?, Verdict::default());
//! assert_eq!(memory[3 * 512..], [0x0f; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocks;

use async_tx::{
    Backend, Caps, CheckedOp, Completion, Fault, Inline, Limits, Lost, Nanos, Op, OpKind, ReadyOp, Region,
    Revival, Seed, Verdict,
};
use raid6_simd::{Error, Kernels, LostData, Parity};

use crate::blocks::{optional, with_blocks, with_changes, with_products};

/// The CPU, with the kernels it was given.
#[derive(Debug, Default)]
pub struct CpuBackend {
    kernels: Kernels,
    /// Completions that [`Backend::reap`] has not handed out yet.
    done: Vec<Completion>,
}

impl CpuBackend {
    /// Computes with these kernels.
    pub fn new(kernels: Kernels) -> Self {
        CpuBackend { kernels, done: Vec::new() }
    }

    /// Computes with the fastest kernels of this CPU.
    pub fn auto() -> Self {
        CpuBackend::new(Kernels::auto())
    }

    /// The kernels it computes with.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }
}

impl Inline for CpuBackend {
    fn name(&self) -> &str {
        self.kernels.kernel().map_or("cpu cycle", |kernel| kernel.name())
    }

    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        // A checked operation is one that the kernels take; they would refuse it, not misbehave.
        execute(&self.kernels, op).map_err(|_| Fault::Unsupported)
    }
}

/// As a backend among others it executes in `submit` and reports in `reap`: the reference that the tests
/// of asynchronous backends compare with.
impl Backend for CpuBackend {
    fn name(&self) -> &str {
        Inline::name(self)
    }

    fn caps(&self) -> Caps {
        Caps::ALL
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        Limits::NONE
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        for ReadyOp { token, op, .. } in ops {
            let result = self.execute(op);
            self.done.push(Completion { token: *token, result });
        }
        ops.len()
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    /// Nothing is to be given up: what was taken has run.
    fn abort(&mut self) {}

    fn revive(&mut self, _now: Nanos) -> Revival {
        Revival::Ready
    }
}

/// Runs one operation.
///
/// Every block below that turns regions into slices relies on the same promises: the operation is in
/// hand, so `Region::new`'s promise holds for all its regions, and [`CheckedOp`] says that a destination
/// shares no byte with another operand, so a `&mut` of it aliases none of the other slices.
fn execute(kernels: &Kernels, op: &CheckedOp<'_>) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    match **op {
        Op::Notify => {}
        Op::Copy { src, dst } => {
            // SAFETY: a checked operation in hand; the lengths are equal.
            unsafe { dst.bytes_mut().copy_from_slice(src.bytes()) };
        }
        Op::Fill { dst, byte } => {
            // SAFETY: a checked operation in hand.
            unsafe { dst.bytes_mut().fill(byte) };
        }
        Op::Xor { srcs, dst, mode } => {
            let mode = match mode {
                async_tx::XorMode::Overwrite => raid6_simd::XorMode::Overwrite,
                async_tx::XorMode::Accumulate => raid6_simd::XorMode::Accumulate,
            };
            // SAFETY: a checked operation in hand.
            unsafe { kernels.xor(Region::list_bytes(srcs), dst.bytes_mut(), mode) }?;
        }
        Op::XorVal { srcs } => {
            // SAFETY: a checked operation in hand; it only reads.
            let zero = unsafe { kernels.xor_val(Region::list_bytes(srcs)) }?;
            verdict.xor_nonzero = !zero;
        }
        Op::Pq { data, p, q } => {
            // SAFETY: a checked operation in hand.
            unsafe {
                let (p, q) = (p.map(|p| p.bytes_mut()), q.map(|q| q.bytes_mut()));
                kernels.gen_pq(Region::blocks_bytes(data), p, q)
            }?;
        }
        Op::PqVal { data, p, q } => {
            // SAFETY: a checked operation in hand; it only reads.
            let bad = unsafe {
                let (p, q) = (optional(p), optional(q));
                kernels.pq_val(Region::blocks_bytes(data), p, q)
            }?;
            (verdict.p_bad, verdict.q_bad) = (bad.p, bad.q);
        }
        Op::PqUpdate { changes, p, q } => {
            // SAFETY: a checked operation in hand.
            unsafe {
                let (p, q) = (p.map(|p| p.bytes_mut()), q.map(|q| q.bytes_mut()));
                with_changes(changes, |changes| kernels.pq_update(changes, p, q))
            }?;
        }
        Op::GfMulAdd { products, dst } => {
            // SAFETY: a checked operation in hand.
            unsafe { with_products(products, |products| kernels.gf_mul_add(products, dst.bytes_mut())) }?;
        }
        Op::Compare { a, b } => {
            // SAFETY: a checked operation in hand; it only reads.
            verdict.differs = unsafe { a.bytes() != b.bytes() };
        }
        Op::Dualcast { src, dst: [d, e] } => {
            // SAFETY: a checked operation in hand; the lengths are equal.
            unsafe {
                d.bytes_mut().copy_from_slice(src.bytes());
                e.bytes_mut().copy_from_slice(src.bytes());
            }
        }
        Op::Crc32c { src, seed, crc } => {
            // SAFETY: a checked operation in hand; seed and CRC have 4 bytes.
            unsafe {
                crc.bytes_mut().copy_from_slice(&kernels.crc32c(value(seed), src.bytes()).to_le_bytes())
            };
        }
        Op::CopyCrc32c { src, dst, seed, crc } => {
            // SAFETY: a checked operation in hand; seed and CRC have 4 bytes.
            unsafe {
                let sum = kernels.copy_crc32c(value(seed), src.bytes(), dst.bytes_mut())?;
                crc.bytes_mut().copy_from_slice(&sum.to_le_bytes());
            }
        }
        // SAFETY: a checked operation in hand.
        Op::Recover { data, p, q, lost } => unsafe { recover(kernels, data, p, q, lost) }?,
    }
    Ok(verdict)
}

/// What a CRC goes on from.
///
/// # Safety
/// The seed is that of a checked operation in hand.
unsafe fn value(seed: Seed) -> u32 {
    match seed {
        Seed::Value(value) => value,
        Seed::From(region) => {
            let mut bytes = [0; 4];
            // SAFETY: an operand of a checked operation in hand has the 4 bytes that the check asks for.
            unsafe { bytes.copy_from_slice(region.bytes()) };
            u32::from_le_bytes(bytes)
        }
    }
}

/// [`Op::Recover`].
///
/// # Safety
/// The operands are those of a checked operation in hand.
unsafe fn recover(
    kernels: &Kernels,
    data: &[Option<Region>],
    p: Option<Region>,
    q: Option<Region>,
    lost: Lost,
) -> Result<(), Error> {
    let left = data.iter().enumerate().map(|(i, block)| block.filter(|_| !lost.has(i)));
    // SAFETY: the blocks left exclude the lost ones, so the `&mut` of those alias no other slice; the
    // rest is the caller's promise. The exponents of `lost` differ and have blocks: the check said so.
    unsafe {
        let (p, q) = (parity(p, lost.p), parity(q, lost.q));
        with_blocks(left, |left| {
            let out = |exponent: u8| {
                let region = data.get(usize::from(exponent)).copied().flatten();
                region.map(|region| LostData { exponent, out: region.bytes_mut() })
            };
            match lost.data.map(|exponent| exponent.and_then(out)) {
                [None, None] => kernels.recover(left, &mut [], p, q),
                [Some(x), None] | [None, Some(x)] => kernels.recover(left, &mut [x], p, q),
                [Some(x), Some(y)] => kernels.recover(left, &mut [x, y], p, q),
            }
        })
    }
}

/// P or Q of a recovery.
///
/// # Safety
/// As [`recover`].
unsafe fn parity<'a>(block: Option<Region>, lost: bool) -> Parity<'a> {
    let Some(block) = block else { return Parity::Absent };
    // SAFETY: a lost parity is a destination, another one a source, of a checked operation in hand.
    unsafe { if lost { Parity::Lost(block.bytes_mut()) } else { Parity::Good(block.bytes()) } }
}
