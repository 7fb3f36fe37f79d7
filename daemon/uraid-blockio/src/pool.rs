//! The buffer pool: blocks of one arena, in powers of two from 4 KiB to 64 MiB.
//!
//! Free blocks are kept last-in first-out for each size, so that a block that was just used, and is still
//! in the CPU's caches, is used next. A bigger block is split when its size has none; buddies are joined
//! only when an allocation would fail otherwise, because joining eagerly would throw away that order.
//! Nothing is ever zeroed: a block holds what its last user left.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::arena::{Arena, ArenaError, ArenaOptions, Hold, IoBuf};

/// The smallest block: 2^12 = 4 KiB.
const MIN_SHIFT: u32 = 12;
/// The biggest block: 2^26 = 64 MiB.
const MAX_SHIFT: u32 = 26;
const CLASSES: usize = (MAX_SHIFT - MIN_SHIFT + 1) as usize;

/// A pool of buffers with a fixed number of bytes. Clones share it; it may be used from any thread.
#[derive(Clone, Debug)]
pub struct BufPool {
    arena: Arc<Arena>,
    free: Arc<Mutex<Free>>,
}

impl BufPool {
    /// The longest buffer it can give, in bytes.
    pub const MAX_LEN: usize = 1 << MAX_SHIFT;

    /// A pool of `bytes` bytes (rounded up to a multiple of 2 MiB), all mapped now and never grown.
    ///
    /// # Errors
    /// [`ArenaError`] if the memory cannot be had.
    pub fn new(bytes: usize, options: ArenaOptions) -> Result<Self, ArenaError> {
        let arena = Arena::new(bytes, options)?;
        let free = Arc::new(Mutex::new(Free::whole(arena.len())));
        Ok(Self { arena, free })
    }

    /// The arena its buffers lie in, for registering it with [`MemberSet`](crate::MemberSet::register).
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// How many bytes it has.
    pub fn capacity(&self) -> usize {
        self.arena.len()
    }

    /// How many bytes are out, counted in whole blocks.
    pub fn in_use(&self) -> usize {
        self.arena.len() - lock(&self.free).bytes
    }

    /// A buffer of `len` bytes, aligned to 4096, holding anything; `None` if the pool has no room for it
    /// now or `len` is more than [`MAX_LEN`](Self::MAX_LEN).
    pub fn try_alloc(&self, len: usize) -> Option<PoolBuf> {
        let class = class_of(len)?;
        let offset = lock(&self.free).take(class)?;
        let give_back = Some(GiveBack { free: Arc::clone(&self.free), class, offset });
        let hold = Arc::new(Hold { arena: Arc::clone(&self.arena), give_back });
        Some(PoolBuf { buf: IoBuf::of_hold(hold, offset, len) })
    }
}

/// A buffer of a [`BufPool`]. Its block goes back to the pool when this and every [`IoBuf`] taken from it
/// are gone, so memory that a device is still using is never given out twice.
#[derive(Debug)]
pub struct PoolBuf {
    buf: IoBuf,
}

impl PoolBuf {
    /// A view of the whole buffer, to be given to an operation.
    pub fn io(&self) -> IoBuf {
        self.buf.clone()
    }

    /// Gives the block back now, unless an operation still holds a view of it. The same as dropping it.
    pub fn release(self) {}
}

impl Deref for PoolBuf {
    type Target = IoBuf;

    fn deref(&self) -> &IoBuf {
        &self.buf
    }
}

/// Where a block goes when its last view is dropped.
#[derive(Debug)]
pub(crate) struct GiveBack {
    free: Arc<Mutex<Free>>,
    class: usize,
    offset: usize,
}

impl GiveBack {
    pub(crate) fn run(&self) {
        lock(&self.free).put(self.class, self.offset);
    }
}

/// The free blocks: for each class the offsets of its free blocks, the last freed at the end.
#[derive(Debug)]
struct Free {
    lists: [Vec<usize>; CLASSES],
    bytes: usize,
}

impl Free {
    /// Everything free, in the biggest aligned blocks that fit.
    fn whole(len: usize) -> Self {
        let mut blocks = Vec::new();
        let mut at = 0;
        while let Some(class) = (0..CLASSES).rev().find(|&c| at % size_of_class(c) == 0 && fits(at, c, len)) {
            blocks.push((class, at));
            at += size_of_class(class);
        }
        let mut free = Self { lists: std::array::from_fn(|_| Vec::new()), bytes: 0 };
        // Last in, first out: low offsets shall come first.
        for (class, offset) in blocks.into_iter().rev() {
            free.put(class, offset);
        }
        free
    }

    fn put(&mut self, class: usize, offset: usize) {
        if let Some(list) = self.lists.get_mut(class) {
            list.push(offset);
            self.bytes += size_of_class(class);
        }
    }

    fn take(&mut self, class: usize) -> Option<usize> {
        if let Some(offset) = self.take_or_split(class) {
            return Some(offset);
        }
        if self.bytes < size_of_class(class) {
            return None;
        }
        self.join_buddies();
        self.take_or_split(class)
    }

    fn take_or_split(&mut self, class: usize) -> Option<usize> {
        let from = (class..CLASSES).find(|&c| self.lists.get(c).is_some_and(|list| !list.is_empty()))?;
        let offset = self.lists.get_mut(from)?.pop()?;
        self.bytes -= size_of_class(from);
        // Keep the low part, give the upper halves back.
        for half in (class..from).rev() {
            self.put(half, offset + size_of_class(half));
        }
        Some(offset)
    }

    /// Joins every pair of free buddies, from the smallest class up.
    fn join_buddies(&mut self) {
        for class in 0..CLASSES - 1 {
            let size = size_of_class(class);
            let mut offsets = self.lists.get_mut(class).map(std::mem::take).unwrap_or_default();
            offsets.sort_unstable_by(|a, b| b.cmp(a));
            self.bytes -= offsets.len() * size;
            // Descending, so the next one down is the only candidate for a pair, and what is left lies in
            // the list with its lowest offset last, to be taken first.
            let mut at = 0;
            while let Some(&offset) = offsets.get(at) {
                match offsets.get(at + 1) {
                    Some(&low) if low == offset ^ size => {
                        self.put(class + 1, low);
                        at += 2;
                    }
                    _ => {
                        self.put(class, offset);
                        at += 1;
                    }
                }
            }
        }
    }
}

const fn size_of_class(class: usize) -> usize {
    1 << (class + MIN_SHIFT as usize)
}

fn fits(at: usize, class: usize, len: usize) -> bool {
    at + size_of_class(class) <= len
}

fn class_of(len: usize) -> Option<usize> {
    (0..CLASSES).find(|&class| len <= size_of_class(class))
}

/// The lists are whole between any two calls, so a thread that panicked elsewhere while holding the lock
/// cannot have left them torn.
fn lock(free: &Mutex<Free>) -> MutexGuard<'_, Free> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(bytes: usize) -> BufPool {
        BufPool::new(bytes, ArenaOptions::default()).unwrap()
    }

    #[test]
    fn the_block_freed_last_is_given_first() {
        let pool = pool(2 << 20);
        let a = pool.try_alloc(5000).unwrap();
        let b = pool.try_alloc(5000).unwrap();
        let (at_a, at_b) = (a.as_ptr(), b.as_ptr());
        drop(b);
        drop(a);
        assert_eq!(pool.try_alloc(8192).unwrap().as_ptr(), at_a);
        let again = (pool.try_alloc(8192).unwrap(), pool.try_alloc(8192).unwrap());
        assert_eq!((again.0.as_ptr(), again.1.as_ptr()), (at_a, at_b));
    }

    #[test]
    fn a_block_stays_out_while_a_view_of_it_lives() {
        let pool = pool(2 << 20);
        let buf = pool.try_alloc(1 << 20).unwrap();
        let view = buf.view(4096, 4096).unwrap();
        buf.release();
        assert_eq!(pool.in_use(), 1 << 20);
        drop(view);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_full_pool_says_so_and_joins_what_came_back() {
        let pool = pool(4 << 20);
        assert_eq!(pool.capacity(), 4 << 20);
        let small: Vec<_> = (0..1024).map(|_| pool.try_alloc(1).unwrap()).collect();
        assert!(pool.try_alloc(1).is_none());
        assert_eq!(pool.in_use(), 4 << 20);
        drop(small);
        let whole = pool.try_alloc(4 << 20).unwrap();
        assert_eq!(whole.len(), 4 << 20);
        assert!(pool.try_alloc(4096).is_none());
    }

    #[test]
    fn memory_can_be_locked_and_present_from_the_start() {
        let pool = BufPool::new(1, ArenaOptions { lock: true, prefault: true }).unwrap();
        let buf = pool.try_alloc(2 << 20).unwrap();
        assert!(buf.to_vec().iter().all(|&byte| byte == 0));
        assert_eq!(buf.as_ptr() as usize % (2 << 20), 0);
        buf.copy_in(4095, &[1, 2]).unwrap();
        let mut two = [0; 3];
        buf.copy_out(4094, &mut two).unwrap();
        assert_eq!(two, [0, 1, 2]);
        assert!(buf.copy_in((2 << 20) - 1, &two).is_err());
        assert!(buf.view(usize::MAX, 2).is_err());
    }

    #[test]
    fn too_long_a_buffer_is_refused() {
        let pool = pool(2 << 20);
        assert!(pool.try_alloc(BufPool::MAX_LEN + 1).is_none());
        assert!(pool.try_alloc(usize::MAX).is_none());
    }

    #[test]
    fn blocks_never_overlap_whatever_the_order() {
        let seed = 0x5eed_0001_u64;
        println!("seed {seed:#x}");
        let mut rng = seed;
        let mut next = move |below: usize| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((rng >> 33) as usize) % below
        };
        let pool = pool(66 << 20);
        let mut held: Vec<PoolBuf> = Vec::new();
        for _ in 0..20_000 {
            if next(100) < 45 && !held.is_empty() {
                held.swap_remove(next(held.len()));
                continue;
            }
            let shift = 12 + next(12);
            let Some(buf) = pool.try_alloc(1 + next(1 << shift)) else {
                held.clear();
                assert_eq!(pool.in_use(), 0);
                continue;
            };
            assert_eq!(buf.as_ptr() as usize % 4096, 0);
            let (start, end) = (buf.offset(), buf.offset() + buf.len());
            let clash = held.iter().find(|b| b.offset() < end && start < b.offset() + b.len());
            assert!(clash.is_none(), "{buf:?} overlaps {clash:?}");
            held.push(buf);
        }
    }
}
