//! What the ring is told to do for a transfer.

use std::os::fd::AsRawFd;

use io_uring::{opcode, squeue, types};

use crate::Member;
use crate::ring::Ring;
use crate::transfer::{Kind, Transfer};

/// The ring entry for what is left of a transfer.
pub(crate) fn entry_for(
    transfer: &Transfer,
    member: &Member,
    file_slot: Option<u32>,
    ring: &Ring,
) -> squeue::Entry {
    match file_slot {
        Some(slot) => entry_on(types::Fixed(slot), transfer, ring),
        None => entry_on(types::Fd(member.file.as_raw_fd()), transfer, ring),
    }
}

/// A file as an entry names it: by its slot, or by its descriptor.
trait Target: Copy {
    fn read(self, ptr: *mut u8, len: u32, buffer: Option<u16>, offset: u64) -> squeue::Entry;
    fn write(self, ptr: *const u8, len: u32, buffer: Option<u16>, offset: u64, flags: i32) -> squeue::Entry;
    fn flush(self) -> squeue::Entry;
}

macro_rules! target {
    ($kind:ty) => {
        impl Target for $kind {
            fn read(self, ptr: *mut u8, len: u32, buffer: Option<u16>, offset: u64) -> squeue::Entry {
                match buffer {
                    Some(slot) => opcode::ReadFixed::new(self, ptr, len, slot).offset(offset).build(),
                    None => opcode::Read::new(self, ptr, len).offset(offset).build(),
                }
            }

            fn write(
                self,
                ptr: *const u8,
                len: u32,
                buffer: Option<u16>,
                offset: u64,
                flags: i32,
            ) -> squeue::Entry {
                match buffer {
                    Some(slot) => {
                        opcode::WriteFixed::new(self, ptr, len, slot).offset(offset).rw_flags(flags).build()
                    }
                    None => opcode::Write::new(self, ptr, len).offset(offset).rw_flags(flags).build(),
                }
            }

            fn flush(self) -> squeue::Entry {
                opcode::Fsync::new(self).flags(types::FsyncFlags::DATASYNC).build()
            }
        }
    };
}

target!(types::Fixed);
target!(types::Fd);

fn entry_on(target: impl Target, transfer: &Transfer, ring: &Ring) -> squeue::Entry {
    let call = transfer.call();
    let buffer = transfer.direct_buf().and_then(|buf| ring.slot_of(buf));
    // `Transfer::call` never asks for more than 1 GiB.
    let len = call.len as u32;
    match transfer.kind {
        Kind::Read => target.read(call.ptr, len, buffer, call.offset),
        Kind::Write => target.write(call.ptr, len, buffer, call.offset, 0),
        Kind::WriteDurable => target.write(call.ptr, len, buffer, call.offset, libc::RWF_DSYNC),
        Kind::Flush => target.flush(),
    }
}
