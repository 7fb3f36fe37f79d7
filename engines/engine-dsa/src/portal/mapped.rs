//! Submission by an instruction on the mapped portal: ENQCMD on shared queues, MOVDIR64B on dedicated ones.
//!
//! Mapping needs CAP_SYS_RAWIO on kernels that know of CVE-2024-21823. The instructions themselves have been
//! assembled, not run: there was no processor at hand that has them. Everything around them (slots,
//! alignment, the bound of the retries) is tested with something else in their place.
//!
//! Should the device be halted, the driver takes the mapping away, and the next store raises SIGBUS, which
//! ends the process; an operator who cannot have that takes the `write` way.

use std::fmt;
use std::fs::File;
use std::hint::spin_loop;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tracing::warn;

use super::closing::Closing;
use super::{Portal, PortalError, store_fence};
use crate::wire::{DESCRIPTOR_BYTES, Descriptor};

/// Bytes of a portal.
const PORTAL_BYTES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Places in a portal; they are equivalent.
const SLOTS: usize = PORTAL_BYTES.get() / DESCRIPTOR_BYTES;
/// How often a descriptor is offered to a full shared queue.
const TRIES: u32 = 8;

/// An instruction that hands 64 bytes to a portal.
pub trait Instruction: Send + fmt::Debug {
    /// Its name, as [`Portal::method`] has it.
    const NAME: &'static str;
    /// Whether successive descriptors go to successive slots, which lets several posted stores be under
    /// way at a time.
    const ROTATES: bool;

    /// Stores the descriptor and says whether it was accepted.
    ///
    /// # Safety
    /// `slot` is aligned to 64 bytes and inside a mapped portal of a queue of the kind that the
    /// instruction is for, and the processor has the instruction.
    unsafe fn store(&mut self, slot: NonNull<u8>, descriptor: &Descriptor) -> bool;
}

/// ENQCMD: for shared queues. Says whether the queue took the descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Enqcmd;

impl Instruction for Enqcmd {
    const NAME: &'static str = "enqcmd";
    const ROTATES: bool = false;

    unsafe fn store(&mut self, slot: NonNull<u8>, descriptor: &Descriptor) -> bool {
        let retry: u8;
        // SAFETY: the caller promises slot and instruction; 64 bytes of a descriptor are read. The flags
        // are clobbered and memory is, which is what asm! assumes without options that say otherwise.
        unsafe {
            std::arch::asm!(
                "enqcmd {slot}, [{descriptor}]",
                "setz {retry}",
                slot = in(reg) slot.as_ptr(),
                descriptor = in(reg) descriptor.0.as_ptr(),
                retry = out(reg_byte) retry,
                options(nostack),
            );
        }
        retry == 0
    }
}

/// MOVDIR64B: for dedicated queues. A posted store: what a full queue does not take is lost.
#[derive(Clone, Copy, Debug)]
pub struct Movdir64b;

impl Instruction for Movdir64b {
    const NAME: &'static str = "movdir64b";
    const ROTATES: bool = true;

    unsafe fn store(&mut self, slot: NonNull<u8>, descriptor: &Descriptor) -> bool {
        // SAFETY: the caller promises slot and instruction; 64 bytes of a descriptor are read. Memory is
        // clobbered, the flags are not.
        unsafe {
            std::arch::asm!(
                "movdir64b {slot}, [{descriptor}]",
                slot = in(reg) slot.as_ptr(),
                descriptor = in(reg) descriptor.0.as_ptr(),
                options(nostack, preserves_flags),
            );
        }
        true
    }
}

/// One mapped page, and the file it is of: both are needed, and both are let go together.
#[derive(Debug)]
struct Page {
    base: NonNull<u8>,
    _node: File,
}

// SAFETY: the page is a mapping of the process, not of a thread; stores to it are atomic by 64 bytes.
unsafe impl Send for Page {}

impl Page {
    fn map(node: File) -> Result<Page, (File, Errno)> {
        // SAFETY: a new mapping at an address of the system's choice touches no memory in use.
        let mapped = unsafe {
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
            mmap(None, PORTAL_BYTES, ProtFlags::PROT_WRITE, flags, &node, 0)
        };
        match mapped {
            Ok(base) => Ok(Page { base: base.cast(), _node: node }),
            Err(errno) => Err((node, errno)),
        }
    }

    /// The address of a slot.
    fn slot(&self, number: usize) -> NonNull<u8> {
        let offset = number % SLOTS * DESCRIPTOR_BYTES;
        // SAFETY: the offset is below the mapping's length.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is this page's own, of this length, and nobody else has its address.
        if let Err(errno) = unsafe { munmap(self.base.cast(), PORTAL_BYTES.get()) } {
            warn!(%errno, "the portal of a DSA queue cannot be unmapped");
        }
    }
}

/// A mapped portal with its instruction.
#[derive(Debug)]
pub struct MappedPortal<I: Instruction> {
    page: Option<Page>,
    closing: Closing<Page>,
    instruction: I,
    next_slot: usize,
}

impl<I: Instruction> MappedPortal<I> {
    /// Maps the portal of a queue's open node. The file comes back if the system refuses: EPERM means
    /// that CAP_SYS_RAWIO is missing.
    ///
    /// # Safety
    /// The processor has the instruction, and `node` is a queue of the kind that it is for.
    pub unsafe fn map(node: File, instruction: I) -> Result<Self, (File, Errno)> {
        let page = Page::map(node)?;
        Ok(MappedPortal { page: Some(page), closing: Closing::new(), instruction, next_slot: 0 })
    }
}

impl<I: Instruction> Portal for MappedPortal<I> {
    fn method(&self) -> &'static str {
        I::NAME
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        let page = self.page.as_ref().ok_or(PortalError::Gone)?;
        store_fence();
        for (accepted, descriptor) in descriptors.iter().enumerate() {
            let slot = page.slot(self.next_slot);
            if !offer(&mut self.instruction, slot, descriptor) {
                return if accepted > 0 { Ok(accepted) } else { Err(PortalError::Retry) };
            }
            if I::ROTATES {
                self.next_slot = (self.next_slot + 1) % SLOTS;
            }
        }
        Ok(descriptors.len())
    }

    fn begin_close(&mut self) {
        self.closing.begin(self.page.take());
    }

    fn is_closed(&mut self) -> bool {
        self.closing.is_done()
    }
}

/// Offers one descriptor, [`TRIES`] times at most, each time after twice as long a pause.
fn offer<I: Instruction>(instruction: &mut I, slot: NonNull<u8>, descriptor: &Descriptor) -> bool {
    for attempt in 0..TRIES {
        // SAFETY: the slot is one of the mapped page's, which is aligned to its size; queue and processor
        // are what the maker of the portal has promised.
        if unsafe { instruction.store(slot, descriptor) } {
            return true;
        }
        for _ in 0..4_u32 << attempt {
            spin_loop();
        }
    }
    false
}

impl<I: Instruction> Drop for MappedPortal<I> {
    fn drop(&mut self) {
        self.begin_close();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Stands for an instruction: notes the slots, and answers as told, then always with yes.
    #[derive(Debug, Default)]
    struct Fake<const ROTATES: bool> {
        slots: Vec<usize>,
        answers: VecDeque<bool>,
    }

    impl<const ROTATES: bool> Instruction for Fake<ROTATES> {
        const NAME: &'static str = "fake";
        const ROTATES: bool = ROTATES;

        unsafe fn store(&mut self, slot: NonNull<u8>, descriptor: &Descriptor) -> bool {
            self.slots.push(slot.as_ptr() as usize);
            // SAFETY: the slot has 64 bytes, and here the page is a file's, not a portal.
            unsafe { slot.cast::<[u8; 64]>().write(descriptor.0) };
            self.answers.pop_front().unwrap_or(true)
        }
    }

    /// On a file of one page in a portal's place.
    fn portal<const ROTATES: bool>(answers: &[bool]) -> MappedPortal<Fake<ROTATES>> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let fake = Fake { slots: Vec::new(), answers: answers.iter().copied().collect() };
        // SAFETY: the fake needs no processor, and takes any file.
        unsafe { MappedPortal::map(file, fake) }.unwrap()
    }

    #[test]
    fn a_dedicated_queue_gets_all_64_slots_in_turn() {
        let mut portal = portal::<true>(&[]);
        let base = portal.page.as_ref().unwrap().base.as_ptr() as usize;
        assert_eq!(portal.submit(&[Descriptor::noop(); 50]), Ok(50));
        assert_eq!(portal.submit(&[Descriptor::drain(); 80]), Ok(80));
        let expected: Vec<_> = (0..130).map(|n| base + n % 64 * 64).collect();
        assert_eq!(portal.instruction.slots, expected);
        assert!(expected.iter().all(|slot| slot % 64 == 0));
    }

    #[test]
    fn a_shared_queue_uses_one_slot_and_retries_eight_times() {
        let mut portal = portal::<false>(&[false; 8]);
        assert_eq!(portal.submit(&[Descriptor::noop(); 3]), Err(PortalError::Retry));
        assert_eq!(portal.instruction.slots.len(), 8);
        portal.instruction.answers = [false; 7].into();
        assert_eq!(portal.submit(&[Descriptor::noop(); 1]), Ok(1));
        portal.instruction.answers = [[true; 2].as_slice(), &[false; 8]].concat().into();
        assert_eq!(portal.submit(&[Descriptor::noop(); 5]), Ok(2));
        let base = portal.page.as_ref().unwrap().base.as_ptr() as usize;
        assert!(portal.instruction.slots.iter().all(|slot| *slot == base));
    }

    #[test]
    fn closed_means_unmapped_and_takes_nothing() {
        let mut portal = portal::<true>(&[]);
        assert!(!portal.is_closed());
        portal.begin_close();
        portal.begin_close();
        assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
        while !portal.is_closed() {
            std::thread::yield_now();
        }
    }

    /// The encodings that the processor's manual gives, with registers as the compiler chose them: the
    /// opcode bytes stand in the function's code.
    #[test]
    fn the_assembler_knows_the_instructions() {
        let code =
            |f: unsafe fn(&mut Enqcmd, NonNull<u8>, &Descriptor) -> bool| bytes_of_code(f as *const u8);
        assert!(contains(&code(<Enqcmd as Instruction>::store), &[0xf2, 0x0f, 0x38, 0xf8]));
        let code =
            |f: unsafe fn(&mut Movdir64b, NonNull<u8>, &Descriptor) -> bool| bytes_of_code(f as *const u8);
        assert!(contains(&code(<Movdir64b as Instruction>::store), &[0x66, 0x0f, 0x38, 0xf8]));
    }

    /// The first bytes of a function.
    fn bytes_of_code(function: *const u8) -> [u8; 96] {
        // SAFETY: code is readable where it was compiled to run, and this test's binary is larger than
        // what follows the function.
        unsafe { function.cast::<[u8; 96]>().read() }
    }

    fn contains(code: &[u8], bytes: &[u8]) -> bool {
        code.windows(bytes.len()).any(|window| window == bytes)
    }
}
