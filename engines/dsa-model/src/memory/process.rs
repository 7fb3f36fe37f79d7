//! The memory of a process, through process_vm_readv(2) and process_vm_writev(2).
//!
//! The kernel reports partial transfers at the grain of its remote vector, so every vector element is one
//! page at most: the count returned says how far it came, and the next element where the fault is.
//!
//! The process is known by its id, which the system may give to another one after it has ended and was waited
//! for. Whoever serves a client has to stop using its memory when the connection ends, which is when the
//! process does; an access that is under way at that moment may still meet the wrong process, if that is one
//! of the same user. For a tool of tests that is accepted.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};

use engine_dsa::wire::RECORD_BYTES;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use thiserror::Error;

use super::{MemFault, Memory, PAGE};

/// Elements of a vector, at most: the kernel takes 1024.
const VECTOR: usize = 256;

/// Why the memory of a process cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProcessError {
    /// It is this very process; see [`Process::own`].
    #[error("process {0} is the model itself, whose memory is not to be reached by descriptors")]
    Own(i32),
}

/// The address space of a process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    gone: AtomicBool,
    refused: AtomicBool,
}

impl Process {
    /// The memory of another process, by its id. Whether it may be accessed shows at the first access.
    pub fn of(pid: i32) -> Result<Self, ProcessError> {
        if pid == Pid::this().as_raw() {
            return Err(ProcessError::Own(pid));
        }
        Ok(Self::with_pid(Pid::from_raw(pid)))
    }

    /// All memory of this process: any address that is mapped can be accessed, any other faults.
    ///
    /// # Safety
    /// Every descriptor that a device with this memory executes names, as operands and completion record,
    /// only memory that its submitter owns until the device is known to be done with it, under the rules of
    /// [`Ranges::register`](super::Ranges::register).
    pub unsafe fn own() -> Self {
        Self::with_pid(Pid::this())
    }

    fn with_pid(pid: Pid) -> Self {
        Self { pid, gone: AtomicBool::new(false), refused: AtomicBool::new(false) }
    }

    /// Whether the system refused an access, as it does to a process of another user or where a ptrace scope
    /// forbids it. Such an access faults like one to a missing page; this tells the two apart.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Runs an access as vectors of pages: `call(remote, offset, length)` moves one vector.
    fn access(
        &self,
        addr: u64,
        len: usize,
        write: bool,
        mut call: impl FnMut(&[RemoteIoVec], usize, usize) -> nix::Result<usize>,
    ) -> Result<(), MemFault> {
        let mut done = 0usize;
        while done < len {
            let fault = MemFault { completed: done, addr: addr.saturating_add(done as u64), write };
            if self.gone.load(Ordering::Relaxed) {
                return Err(fault);
            }
            let (remote, n) = pages(addr, done, len).ok_or(fault)?;
            let moved = match call(&remote, done, n) {
                Ok(moved) => moved.min(n),
                Err(Errno::ESRCH) => {
                    self.gone.store(true, Ordering::Relaxed);
                    0
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EPERM) => {
                    self.refused.store(true, Ordering::Relaxed);
                    0
                }
                Err(_) => 0,
            };
            done += moved;
            if moved < n && moved == 0 {
                return Err(fault);
            }
        }
        Ok(())
    }
}

/// The next vector of an access: at most [`VECTOR`] elements that end at page boundaries, and their bytes.
/// `None` if the access leaves the address space at once.
fn pages(addr: u64, done: usize, len: usize) -> Option<(Vec<RemoteIoVec>, usize)> {
    let mut remote = Vec::with_capacity(VECTOR.min((len - done) / PAGE as usize + 2));
    let mut n = 0usize;
    while done + n < len && remote.len() < VECTOR {
        let Some(at) = addr.checked_add((done + n) as u64) else { break };
        let Ok(base) = usize::try_from(at) else { break };
        let part = ((PAGE - at % PAGE) as usize).min(len - done - n);
        remote.push(RemoteIoVec { base, len: part });
        n += part;
    }
    (n > 0).then_some((remote, n))
}

impl Memory for Process {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), MemFault> {
        let len = into.len();
        self.access(addr, len, false, |remote, offset, n| {
            let part = into.get_mut(offset..offset + n).unwrap_or_default();
            process_vm_readv(self.pid, &mut [IoSliceMut::new(part)], remote)
        })
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), MemFault> {
        self.access(addr, from.len(), true, |remote, offset, n| {
            let part = from.get(offset..offset + n).unwrap_or_default();
            process_vm_writev(self.pid, &[IoSlice::new(part)], remote)
        })
    }

    /// The body first, the status in a second call: the first one has returned before the second begins, and
    /// the kernel stores a single byte at once. That this suffices is a property of x86's store order.
    fn publish(&self, addr: u64, record: &[u8; RECORD_BYTES]) -> Result<(), MemFault> {
        let (status, body) = record.split_at(1);
        self.write(addr.wrapping_add(1), body)?;
        self.write(addr, status)
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}
