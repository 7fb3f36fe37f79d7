//! The bytes behind the core's names: stripe cache slots, request payloads, and zeroes.
//!
//! All of it is mapped and touched when the memory is made and never grows: an array that swap lies on
//! must not need memory to make memory free. Slots lie in one arena, slot by slot and in each slot role by
//! role; a strip of zeroes follows the last slot. Request payloads come from a [`BufPool`].
//!
//! A [`Mem`] becomes an [`IoBuf`] for member I/O or a [`Region`] for the chain engine. Both are checked
//! against the memory that the name stands for: a name that stands for nothing is [`BadMem`], after which
//! the core cannot be trusted any more.
//!
//! # Who may touch it, and how long
//! The engine may have handed a region to a device that works on its own. Three promises keep that safe:
//! - A chain **ends** only when nothing can read or write its regions any more, and the core names a
//!   chain's memory to nobody else before it ended. So between the end of a chain and the write of its
//!   result to a member nothing but the member's I/O touches the bytes, and what a crash leaves on the
//!   members is what was computed; a device that answers late cannot change it.
//! - A **payload** is kept by the runner from the submission of its request to the core's completion, whatever
//!   becomes of the client, and the core completes a request only after every chain that names it ended.
//! - **At the end** the engine is dropped before the memory, and dropping it returns only when no device can
//!   reach what it was given. A shard that ends while a device has something in hand does not wait for that:
//!   it drops neither, and the memory is kept until the process ends.

use async_tx::Region;
use thiserror::Error;
use uraid_blockio::{Arena, ArenaError, ArenaOptions, BufPool, IoBuf};
use uraid_core::{Geometry, Mem, Place, ReqId, SlotId};

/// How much memory an array gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryConfig {
    /// Stripe cache slots.
    pub slots: u32,
    /// Bytes for the payloads of client requests, rounded up to 2 MiB. A request that does not fit waits,
    /// one that never could is refused, so this is best at least the longest payload (64 MiB).
    pub pool_bytes: usize,
    /// Lock it all into memory.
    pub lock: bool,
    /// Touch it all now, so that no request pays for a page fault.
    pub prefault: bool,
}

/// A name that stands for no memory. The core broke its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the array core named memory that does not exist: {0:?}")]
pub struct BadMem(pub Mem);

/// The memory of one array.
#[derive(Debug)]
pub struct Memory {
    slots: IoBuf,
    zeroes: IoBuf,
    pool: BufPool,
    strip: usize,
    /// Strips of a slot.
    strips: usize,
    slot_count: u32,
}

impl Memory {
    /// The memory for an array of this shape, with so many strips in each slot
    /// ([`slot_strips`](uraid_core::Array::slot_strips)).
    ///
    /// # Errors
    /// [`ArenaError`] if it cannot be had.
    pub fn new(geometry: &Geometry, slot_strips: u16, config: MemoryConfig) -> Result<Self, ArenaError> {
        let (strip, strips) = (geometry.strip_bytes() as usize, usize::from(slot_strips));
        let options = ArenaOptions { lock: config.lock, prefault: config.prefault };
        let too_much =
            || ArenaError::Map { bytes: usize::MAX, source: std::io::ErrorKind::OutOfMemory.into() };
        let slot_bytes = strip.checked_mul(strips).ok_or_else(too_much)?;
        let slots_bytes = slot_bytes.checked_mul(config.slots as usize).ok_or_else(too_much)?;
        let arena = Arena::new(slots_bytes.checked_add(strip).ok_or_else(too_much)?, options)?;
        // The arena has at least the bytes that were asked for, so neither view is out of bounds.
        let slots = arena.view(0, slots_bytes).map_err(|_| too_much())?;
        let zeroes = arena.view(slots_bytes, strip).map_err(|_| too_much())?;
        let pool = BufPool::new(config.pool_bytes, options)?;
        Ok(Self { slots, zeroes, pool, strip, strips, slot_count: config.slots })
    }

    /// Where request payloads come from.
    pub fn pool(&self) -> &BufPool {
        &self.pool
    }

    /// The arena of the slots, for registering it with a ring.
    pub fn slot_arena(&self) -> &std::sync::Arc<Arena> {
        self.slots.arena()
    }

    /// The view that a name stands for. `payload` finds the payload of a request.
    ///
    /// # Errors
    /// [`BadMem`] if there is no such memory.
    pub fn view<'a>(
        &self,
        mem: Mem,
        payload: impl FnOnce(ReqId) -> Option<&'a IoBuf>,
    ) -> Result<IoBuf, BadMem> {
        let (offset, len) = (mem.offset as usize, mem.len as usize);
        let view = match mem.place {
            Place::Request(req) => payload(req).and_then(|buf| buf.view(offset, len).ok()),
            Place::Slot(slot, role) => self.strip_at(slot, role.0).and_then(|at| self.part(at, offset, len)),
            Place::Zero => self.zeroes.view(0, len).ok(),
        };
        view.ok_or(BadMem(mem))
    }

    /// The view that a name stands for, to be written: the zeroes are not, for everyone reads them.
    ///
    /// # Errors
    /// [`BadMem`] if there is no such memory, or it is the zeroes.
    pub fn target<'a>(
        &self,
        mem: Mem,
        payload: impl FnOnce(ReqId) -> Option<&'a IoBuf>,
    ) -> Result<IoBuf, BadMem> {
        if mem.place == Place::Zero { Err(BadMem(mem)) } else { self.view(mem, payload) }
    }

    /// The region that a name stands for.
    ///
    /// # Errors
    /// [`BadMem`] if there is no such memory.
    pub fn region<'a>(
        &self,
        mem: Mem,
        payload: impl FnOnce(ReqId) -> Option<&'a IoBuf>,
    ) -> Result<Region, BadMem> {
        let view = self.view(mem, payload)?;
        // SAFETY: the pointer is that of a view into a mapping, so it is not null and the bytes are
        // allocated and initialised (an arena is zero at first). They stay so until the chain was reaped:
        // slots and zeroes live as long as `self`, which the runner drops after its engine, and a request's
        // payload is kept until the core completes the request, which it does only after the chains that
        // name it. That nobody else touches the bytes meanwhile is the core's promise (it names a buffer to
        // one operation at a time, or to readers only), and everything it asks for happens on this thread
        // or was submitted by it. The zeroes are no destination: the lowering refuses that.
        Ok(unsafe { Region::new(view.as_ptr(), view.len()) })
    }

    /// The first byte of a role's strip in a slot.
    fn strip_at(&self, slot: SlotId, role: u16) -> Option<usize> {
        let role = usize::from(role);
        if slot.0 >= self.slot_count || role >= self.strips {
            return None;
        }
        (slot.0 as usize).checked_mul(self.strips)?.checked_add(role)?.checked_mul(self.strip)
    }

    /// `len` bytes at `offset` of the strip at `at`.
    fn part(&self, at: usize, offset: usize, len: usize) -> Option<IoBuf> {
        if offset.checked_add(len)? > self.strip {
            return None;
        }
        self.slots.view(at.checked_add(offset)?, len).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use md_format::{Layout, Level};
    use uraid_core::Role;

    fn memory() -> Memory {
        let layout = Layout::from_number(Level::Raid5, 2).unwrap();
        let geometry = Geometry::new(Level::Raid5, layout, 3, 65536, 1 << 20).unwrap();
        let config = MemoryConfig { slots: 4, pool_bytes: 2 << 20, lock: false, prefault: false };
        Memory::new(&geometry, 3, config).unwrap()
    }

    #[test]
    fn strips_are_apart_and_aligned() {
        let memory = memory();
        let mut seen = std::collections::BTreeSet::new();
        for slot in 0..4 {
            for role in 0..3 {
                let mem = Mem { place: Place::Slot(SlotId(slot), Role(role)), offset: 0, len: 65536 };
                let view = memory.view(mem, |_| None).unwrap();
                assert_eq!(view.as_ptr() as usize % 4096, 0);
                assert!(seen.insert(view.as_ptr() as usize / 65536));
            }
        }
        let zero = Mem { place: Place::Zero, offset: 0, len: 65536 };
        assert_eq!(memory.target(zero, |_| None).unwrap_err(), BadMem(zero));
        assert!(seen.insert(memory.view(zero, |_| None).unwrap().as_ptr() as usize / 65536));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let memory = memory();
        let payload = memory.pool().try_alloc(4096).unwrap();
        let bad = [
            (Place::Slot(SlotId(4), Role(0)), 0, 512),
            (Place::Slot(SlotId(0), Role(3)), 0, 512),
            (Place::Slot(SlotId(0), Role(0)), 65536, 512),
            (Place::Slot(SlotId(0), Role(0)), u32::MAX, u32::MAX),
            (Place::Zero, 0, 65536 + 512),
            (Place::Request(ReqId(1)), 3584, 1024),
        ];
        for (place, offset, len) in bad {
            let mem = Mem { place, offset, len };
            assert_eq!(memory.view(mem, |_| Some(&payload)).unwrap_err(), BadMem(mem));
        }
        let mem = Mem { place: Place::Request(ReqId(1)), offset: 512, len: 1024 };
        assert!(memory.view(mem, |_| None).is_err());
        assert_eq!(memory.view(mem, |_| Some(&payload)).unwrap().offset(), payload.offset() + 512);
    }
}
