//! The thread: attaches, then does what it is told, and replaces connections that the kernel gave up on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tokio::sync::oneshot;
use uraid_attach::{AttachError, Event, Events, Host, Netlink, Replace, replace_sockets};
use uraid_shard::{NewConnection, ShardHandle};

use super::{Attached, DetachError, Left, Wanted, attach};
use crate::serve::handover::DeviceRecord;

/// How long programs that merely look at the device are waited for before it is detached.
const LOOKERS: Duration = Duration::from_secs(1);
/// How long the kernel may take to be rid of the device when it was detached.
const GONE: Duration = Duration::from_secs(10);
/// The same when it was detached although somebody has it open: it stays as long as he has.
const GONE_FORCED: Duration = Duration::from_secs(1);
/// Further connections that died with one are waited for so long.
const MORE_DEATHS: Duration = Duration::from_millis(100);
/// How long the kernel may take to accept the new ones.
const REPLACED: Duration = Duration::from_secs(5);
/// And how long to find places for more than one of them.
const OTHERS: Duration = Duration::from_secs(2);
/// How often it is looked whether the device is still there, in milliseconds.
const LOOK_EVERY_MS: u16 = 5000;

pub(super) enum Order {
    Detach { force: bool, tell: oneshot::Sender<Result<(), DetachError>> },
    LetGo { tell: oneshot::Sender<Left> },
}

pub(super) struct Keeper {
    pub(super) wanted: Wanted,
    pub(super) shard: ShardHandle,
    pub(super) host: Host,
    inbox: Receiver<Order>,
    bell: Arc<EventFd>,
    now: Arc<Mutex<Option<Attached>>>,
}

/// The kernel's ear and mouth.
pub(super) struct Line {
    pub(super) netlink: Netlink,
    pub(super) events: Events,
    /// Whether this kernel shows the backend of the device.
    pub(super) shows_backend: bool,
    /// How many connections the device has.
    pub(super) sockets: usize,
}

impl Keeper {
    pub(super) fn new(
        wanted: Wanted,
        shard: ShardHandle,
        inbox: Receiver<Order>,
        bell: Arc<EventFd>,
        now: Arc<Mutex<Option<Attached>>>,
    ) -> Self {
        Keeper { wanted, shard, host: Host::here(), inbox, bell, now }
    }

    pub(super) fn run(self, left: Left, ready: oneshot::Sender<Result<Attached, String>>) {
        let (mut line, attached) = match attach::attach(&self, left) {
            Ok(done) => done,
            Err(why) => {
                let _ = ready.send(Err(why));
                return;
            }
        };
        self.set(Some(attached.clone()));
        let _ = ready.send(Ok(attached.clone()));
        self.keep(&mut line, &attached)
            .unwrap_or_else(|| tracing::debug!("the device stays attached, and nobody keeps it"));
    }

    /// Whether somebody has detached it, and perhaps attached something else there, which is not to be
    /// touched.
    fn is_gone(&self, line: &Line, attached: &Attached) -> bool {
        let backend = self.wanted.connect.backend.as_deref().filter(|_| line.shows_backend);
        self.host.is_detached(attached.index)
            || backend.is_some_and(|backend| self.host.is_not_of(attached.index, backend))
    }

    fn set(&self, attached: Option<Attached>) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = attached;
    }

    /// Keeps the device until it is let go of; none if everybody who could say so is gone.
    fn keep(&self, line: &mut Line, attached: &Attached) -> Option<()> {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Detach { force, tell }) => {
                    let done = self.detach(line, attached, force);
                    let over = done.is_ok();
                    if over {
                        self.set(None);
                    }
                    let _ = tell.send(done);
                    if over {
                        return Some(());
                    }
                    continue;
                }
                Ok(Order::LetGo { tell }) => {
                    let record = DeviceRecord { index: attached.index, sockets: line.sockets };
                    let netlink = line.netlink.as_fd().try_clone_to_owned().ok();
                    let _ = tell.send(Left { record: Some(record), netlink, sockets: Vec::new() });
                    return Some(());
                }
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            self.wait_and_heal(line, attached);
            if self.is_gone(line, attached) {
                tracing::error!(
                    "{} was detached by somebody else; the volume is still served at its other addresses",
                    attached.node.display()
                );
                self.set(None);
                return Some(());
            }
        }
    }

    /// Waits until the bell rings or something else may have happened, and looks after the connections.
    fn wait_and_heal(&self, line: &mut Line, attached: &Attached) {
        let woken = wait([line.events.as_fd(), self.bell.as_fd()]);
        let _ = self.bell.read();
        let healed = woken.map_err(|error| error.to_string()).and_then(|()| self.heal(line, attached));
        if let Err(error) = healed {
            tracing::error!("{}: {error}", attached.node.display());
        }
    }

    /// Gives the kernel new connections for those that it gave up on.
    fn heal(&self, line: &mut Line, attached: &Attached) -> Result<(), String> {
        let mut dead = 0;
        let mut until = Instant::now();
        while let Some(event) = line.events.next_until(until).map_err(|error| error.to_string())? {
            match event {
                Event::LinkDead(index) if index == attached.index => dead += 1,
                Event::LinkDead(_) => continue,
                Event::Overrun => dead = line.sockets,
            }
            until = Instant::now() + MORE_DEATHS;
        }
        if dead == 0 || self.is_gone(line, attached) {
            return Ok(());
        }
        let node = attached.node.display();
        tracing::warn!("{node}: the kernel gave up on {dead} connections; it gets new ones");
        let count = self.replace(line, attached.index, dead.min(line.sockets), REPLACED)?;
        tracing::info!("{node}: {count} new connections");
        Ok(())
    }

    /// Gives the kernel up to `count` new connections in the place of dead ones, and has them served. The
    /// first is served before the others are offered, for requests wait for it; and there may be fewer places
    /// than are asked for, if the device was attached with fewer. Says how many the kernel took.
    ///
    /// Nothing has to be fenced here: see the module's description, and for a process that died the members
    /// were waited for.
    pub(super) fn replace(
        &self,
        line: &mut Line,
        index: u32,
        count: usize,
        within: Duration,
    ) -> Result<usize, String> {
        let backend = self.wanted.connect.backend.clone();
        let mut taken = 0;
        for (sockets, within) in [(1, within), (count.saturating_sub(1), OTHERS)] {
            if sockets == 0 {
                break;
            }
            let wanted = Replace { index, backend: backend.clone(), sockets, within };
            match replace_sockets(&mut line.netlink, &mut line.events, &wanted, &[], || Ok(())) {
                Ok(ends) => {
                    taken += ends.len();
                    self.serve(ends)?;
                }
                // All connections are alive, then.
                Err(AttachError::TooLate { .. }) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(taken)
    }

    /// Has the shard serve the ends that are not the kernel's.
    pub(super) fn serve(&self, sockets: Vec<std::os::fd::OwnedFd>) -> Result<(), String> {
        for socket in sockets {
            let connection = NewConnection::kernel(socket, self.wanted.session, "the kernel".to_owned());
            self.shard.connect(connection).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn detach(&self, line: &mut Line, attached: &Attached, force: bool) -> Result<(), DetachError> {
        let failed = |error: &dyn std::fmt::Display| {
            DetachError::Failed(format!("{}: {error}", attached.node.display()))
        };
        if self.is_gone(line, attached) {
            return Ok(());
        }
        let holders = self.host.wait_until_free(attached.index, LOOKERS);
        let free = holders.is_free();
        if !free && !force {
            return Err(DetachError::Held(format!("{} is {holders}", attached.node.display())));
        }
        // Held exclusively until it is detached, so that nobody comes in between to whom its detaching would
        // be the loss of his disk.
        let held = match claim(attached, free) {
            Ok(held) => Some(held),
            Err(error) if free && error.raw_os_error() == Some(libc::EBUSY) => {
                let holders = self.host.holders(attached.index);
                return Err(DetachError::Held(format!("{} is {holders}", attached.node.display())));
            }
            Err(error) if free => return Err(failed(&error)),
            Err(_) => None,
        };
        if let Some(device) = &held
            && let Err(error) = write_out(device, &self.bell, || self.wait_and_heal(line, attached))
            && !force
            && !self.wanted.read_only
        {
            return Err(failed(&format!("what was written to it cannot be made durable: {error}")));
        }
        line.netlink.disconnect(attached.index).map_err(|error| failed(&error))?;
        drop(held);
        let gone = self.host.wait_until_detached(attached.index, if free { GONE } else { GONE_FORCED });
        match gone {
            Ok(()) => {
                tracing::info!("{} is detached", attached.node.display());
                Ok(())
            }
            Err(error) if force => {
                tracing::warn!(
                    "{} is cut off, and stays until it is closed: {error}",
                    attached.node.display()
                );
                Ok(())
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Has what the kernel holds for the device written out by a thread of its own, and calls `meanwhile` until that is
/// done: what is written out may wait for a connection that the kernel gave up on, and has to be replaced. The bell
/// rings at the end.
fn write_out(device: &File, bell: &Arc<EventFd>, mut meanwhile: impl FnMut()) -> io::Result<()> {
    let (tell, told) = channel();
    let (copy, bell) = (device.try_clone()?, Arc::clone(bell));
    let work = move || {
        let done = copy.sync_all();
        // The claim on the device ends with the last descriptor, which is not to be this one.
        drop(copy);
        let _ = tell.send(done);
        let _ = bell.write(1);
    };
    std::thread::Builder::new().name("uraid write out".to_owned()).spawn(work)?;
    loop {
        match told.try_recv() {
            Ok(done) => return done,
            Err(TryRecvError::Empty) => meanwhile(),
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("its thread has ended")),
        }
    }
}

/// Opens the device, for this process alone if that is wanted.
fn claim(attached: &Attached, exclusively: bool) -> io::Result<File> {
    let flags = if exclusively { libc::O_EXCL } else { 0 };
    OpenOptions::new().read(true).custom_flags(flags).open(&attached.node)
}

fn wait(fds: [std::os::fd::BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::from(LOOK_EVERY_MS)) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EfdFlags;

    /// What happens meanwhile is looked after, and the bell ends the wait.
    #[test]
    fn the_kernel_is_listened_to_while_the_device_is_written_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap());
        let file = File::open(&path).unwrap();
        let mut turns = 0;
        let meanwhile = || {
            turns += 1;
            let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(60_000_u16)), Ok(1), "nobody rang");
            let _ = bell.read();
        };
        write_out(&file, &bell, meanwhile).unwrap();
        assert!(turns <= 1);
        // A pipe cannot be made durable; whoever asks is told.
        let (_read, write) = nix::unistd::pipe().unwrap();
        assert!(write_out(&File::from(write), &bell, std::thread::yield_now).is_err());
    }
}
