//! The older way to attach: ioctls on /dev/nbdN, and a thread that sits in one of them for as long as the
//! device is attached.
//!
//! For: hosts on which the netlink family cannot be reached, such as a container with the device node in it
//! and a network namespace of its own. Everything that netlink can do is better done there: a device that
//! was attached like this
//!
//! - is gone with this process: no new process can take it over, and no socket of it can be replaced;
//! - has no name in sysfs, and must exist before (`modprobe nbd nbds_max=N`);
//! - has no `dead_conn_timeout`: when its last socket dies, every request fails at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;
use nix::unistd::pipe2;

use crate::sys::{NbdIoctl, nbd_ioctl};
use crate::wait::{poll_until, readable_until};
use crate::{AttachError, Capability, Connect, DeviceChoice, Host};

/// A device that this process attached by ioctl. Dropping it leaves the device attached.
#[derive(Debug)]
pub struct Attachment {
    index: u32,
    device: Arc<File>,
    /// Its other end is closed by the thread's end.
    ended: OwnedFd,
    thread: JoinHandle<Result<(), AttachError>>,
}

/// Attaches the sockets, whose other ends are served by now. The device's name for its backend and the
/// [`Connect::dead_conn_timeout`] have no effect, see above. [`DeviceChoice::Auto`] takes the first of the
/// existing devices that is free.
///
/// # Errors
/// As [`Netlink::connect`](crate::Netlink::connect); [`AttachError::TooLate`] if the kernel does not show the
/// device as attached within the time.
pub fn connect(
    host: &Host,
    wanted: &Connect,
    sockets: Vec<OwnedFd>,
    within: Duration,
) -> Result<Attachment, AttachError> {
    wanted.check(sockets.len())?;
    match wanted.device {
        DeviceChoice::Index(index) => connect_to(host, index, wanted, &Arc::new(sockets), within),
        DeviceChoice::Auto => connect_to_any(host, wanted, &Arc::new(sockets), within),
    }
}

fn connect_to_any(
    host: &Host,
    wanted: &Connect,
    sockets: &Arc<Vec<OwnedFd>>,
    within: Duration,
) -> Result<Attachment, AttachError> {
    for device in host.devices()?.iter().filter(|device| device.attached.is_none()) {
        match connect_to(host, device.index, wanted, sockets, within) {
            // Somebody was faster.
            Err(AttachError::InUse { .. }) => {}
            other => return other,
        }
    }
    if host.module_loaded() {
        let why = "none of the nbd devices is free; by ioctl no new one can be made, `modprobe nbd nbds_max=N` makes N";
        return Err(AttachError::Parameter(why.to_owned()));
    }
    Err(AttachError::ModuleMissing)
}

fn connect_to(
    host: &Host,
    index: u32,
    wanted: &Connect,
    sockets: &Arc<Vec<OwnedFd>>,
    within: Duration,
) -> Result<Attachment, AttachError> {
    if host.attached(index).is_some() {
        return Err(AttachError::InUse { index });
    }
    let device = Arc::new(open(&host.node(index), index)?);
    let (ended, end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| AttachError::io("make a pipe", error))?;
    let (told, tell) = {
        let (sender, receiver) = channel();
        (receiver, sender)
    };
    let job =
        Job { index, device: Arc::clone(&device), wanted: wanted.clone(), sockets: Arc::clone(sockets) };
    let thread = std::thread::Builder::new()
        .name(format!("nbd{index}"))
        .spawn(move || {
            let result = job.run(&tell);
            drop(end);
            result
        })
        .map_err(|error| AttachError::io("start a thread", error))?;
    let attachment = Attachment { index, device, ended, thread };
    attachment.started(host, &told, within)
}

fn open(node: &Path, index: u32) -> Result<File, AttachError> {
    let shown = PathBuf::from(node);
    OpenOptions::new().read(true).write(true).open(node).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => AttachError::InUse { index },
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => AttachError::ModuleMissing,
        _ => AttachError::io(format!("open {}", shown.display()), error),
    })
}

/// What the thread has to do.
struct Job {
    index: u32,
    device: Arc<File>,
    wanted: Connect,
    sockets: Arc<Vec<OwnedFd>>,
}

impl Job {
    /// All of it on one thread: the kernel ties the setting up of a device to the thread that began it.
    fn run(self, ready: &Sender<()>) -> Result<(), AttachError> {
        // A signal would end the wait in the kernel, and with it the device.
        SigSet::all().thread_block().map_err(|error| AttachError::io("keep signals away", error))?;
        let block = u64::from(self.wanted.block_size);
        for socket in self.sockets.iter() {
            self.tell(NbdIoctl::SetSock, u64::from(socket.as_raw_fd().unsigned_abs()))?;
        }
        let set_up = [
            (NbdIoctl::SetBlockSize, block),
            (NbdIoctl::SetSizeBlocks, self.wanted.size / block),
            (NbdIoctl::SetTimeout, self.wanted.timeout.as_secs()),
            (NbdIoctl::SetFlags, u64::from(self.wanted.kernel_flags())),
        ];
        for (what, argument) in set_up {
            if let Err(error) = self.tell(what, argument) {
                let _ = nbd_ioctl(self.device.as_fd(), NbdIoctl::ClearSock, 0);
                return Err(error);
            }
        }
        // The kernel has its own hold on them, and our copy would keep their other ends from seeing it go.
        let (index, device) = (self.index, self.device);
        drop(self.sockets);
        let _ = ready.send(());
        let served = nbd_ioctl(device.as_fd(), NbdIoctl::DoIt, 0);
        let _ = nbd_ioctl(device.as_fd(), NbdIoctl::ClearSock, 0);
        served.map_err(|error| AttachError::io(format!("serve nbd{index} any longer"), error))
    }

    fn tell(&self, what: NbdIoctl, argument: u64) -> Result<(), AttachError> {
        let index = self.index;
        let told = libc::c_ulong::try_from(argument).map_err(|_| io::ErrorKind::InvalidInput.into());
        told.and_then(|argument| nbd_ioctl(self.device.as_fd(), what, argument)).map_err(
            |error: io::Error| match error.raw_os_error() {
                Some(libc::EPERM) => {
                    let what = "attach nbd devices";
                    AttachError::NotPermitted { what, capability: Capability::SysAdmin }
                }
                Some(libc::EBUSY) => AttachError::InUse { index },
                Some(number) => AttachError::Refused {
                    what: format!("attach nbd{index} by ioctl ({what:?} {argument})"),
                    errno: Errno::from_raw(number),
                    text: None,
                    hint: "; its log says more",
                },
                None => AttachError::io(format!("attach nbd{index} by ioctl ({what:?} {argument})"), error),
            },
        )
    }
}

impl Attachment {
    /// N of /dev/nbdN.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether the device has been detached, by [`Attachment::disconnect`] or because its sockets died.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Detaches, when every request in flight has been answered: `DISC` is sent on the sockets, whose other
    /// ends answer what they have and close. Servers that do not within the time are cut off. **The kernel
    /// does not ask whether the device is used.**
    ///
    /// # Errors
    /// The device had ended badly before, or does not let go.
    pub fn disconnect(self, within: Duration) -> Result<(), AttachError> {
        // Refused when the device has ended already, which is what is wanted.
        let _ = nbd_ioctl(self.device.as_fd(), NbdIoctl::Disconnect, 0);
        if !self.wait(within)? {
            let _ = nbd_ioctl(self.device.as_fd(), NbdIoctl::ClearSock, 0);
            if !self.wait(within)? {
                return Err(AttachError::TooLate {
                    what: format!("nbd{} to end", self.index),
                    after: within,
                });
            }
        }
        self.join()
    }

    fn started(self, host: &Host, told: &Receiver<()>, within: Duration) -> Result<Self, AttachError> {
        match told.recv_timeout(within) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(self.why_it_ended()),
            Err(RecvTimeoutError::Timeout) => {
                let what = format!("the kernel to set up nbd{}", self.index);
                return Err(self.given_up(AttachError::TooLate { what, after: within }));
            }
        }
        let index = self.index;
        let what = || format!("the kernel to show nbd{index} as attached");
        let shown =
            poll_until(what, within, || (host.attached(index).is_some() || self.has_ended()).then_some(()));
        if let Err(error) = shown {
            return Err(self.given_up(error));
        }
        if self.has_ended() { Err(self.why_it_ended()) } else { Ok(self) }
    }

    /// What nobody will know of must not come to be attached after all.
    fn given_up(self, why: AttachError) -> AttachError {
        let _ = nbd_ioctl(self.device.as_fd(), NbdIoctl::ClearSock, 0);
        why
    }

    fn why_it_ended(self) -> AttachError {
        let what = format!("attach nbd{} by ioctl", self.index);
        match self.join() {
            Err(error) => error,
            Ok(()) => AttachError::NoAnswer { what, why: "it ended at once" },
        }
    }

    /// Whether it ended within the time.
    fn wait(&self, within: Duration) -> Result<bool, AttachError> {
        readable_until(self.ended.as_fd(), Instant::now() + within)
            .map_err(|error| AttachError::io("wait for the device's end", error))
    }

    fn join(self) -> Result<(), AttachError> {
        let lost = AttachError::NoAnswer { what: format!("serve nbd{}", self.index), why: "its thread died" };
        self.thread.join().unwrap_or(Err(lost))
    }
}

impl AsFd for Attachment {
    /// Readable, and at its end, when the device has been detached.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::socket_pairs;

    fn attach_at(host: &Host, device: DeviceChoice) -> AttachError {
        let wanted = Connect { device, ..Connect::new(1 << 20, 512) };
        let sockets = socket_pairs(1).unwrap().into_iter().map(|pair| pair.kernel).collect();
        connect(host, &wanted, sockets, Duration::from_secs(5)).unwrap_err()
    }

    #[test]
    fn what_is_no_nbd_device_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::below(directory.path());
        assert!(matches!(attach_at(&host, DeviceChoice::Auto), AttachError::ModuleMissing));
        assert!(matches!(attach_at(&host, DeviceChoice::Index(0)), AttachError::ModuleMissing));
        std::fs::create_dir(directory.path().join("dev")).unwrap();
        std::fs::write(directory.path().join("dev/nbd0"), "a file").unwrap();
        let told = attach_at(&host, DeviceChoice::Index(0)).to_string();
        assert!(told.contains("nbd0 by ioctl (SetSock"), "{told}");
    }

    #[test]
    fn an_attached_device_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("sys/block/nbd0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("pid"), "1\n").unwrap();
        std::fs::write(device.join("size"), "8\n").unwrap();
        let host = Host::below(directory.path());
        assert!(matches!(attach_at(&host, DeviceChoice::Index(0)), AttachError::InUse { index: 0 }));
        std::fs::create_dir_all(directory.path().join("sys/module/nbd")).unwrap();
        assert!(attach_at(&host, DeviceChoice::Auto).to_string().contains("nbds_max"));
    }
}
