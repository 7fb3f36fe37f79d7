//! How the device comes to be: taken over, given new sockets, or attached.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uraid_attach::{Capability, DeviceChoice, Events, Netlink, SocketPair, socket_pairs};

use super::keeper::{Keeper, Line};
use super::{Attached, FIRST_READ, Left};
use crate::serve::handover::DeviceRecord;

/// How long the device's node may take to appear.
const NODE: Duration = Duration::from_secs(10);
/// How long the kernel may take to give up the sockets of a process that died.
const DEAD: Duration = Duration::from_secs(20);
/// How long udev may take to make the device's links. It is not waited for longer, for it may wait for
/// something else.
const UDEV: Duration = Duration::from_secs(10);
/// What O_DIRECT asks for at most.
const ALIGNMENT: usize = 4096;

/// Attaches the device, by whichever way, and sees it answer.
pub(super) fn attach(keeper: &Keeper, left: Left) -> Result<(Line, Attached), String> {
    let since = SystemTime::now();
    let mut line = open_line(keeper, left.netlink)?;
    let mut fresh = false;
    let index = match left.record {
        Some(record) if is_ours(keeper, record.index) => {
            take_over(keeper, &mut line, &record, &left.sockets)?
        }
        // Somebody detached it meanwhile, or there never was one.
        _ => match find(keeper, &mut line)? {
            Some(index) => reconnect(keeper, &mut line, index)?,
            None => {
                fresh = true;
                connect(keeper, &mut line)?
            }
        },
    };
    match set_up(keeper, index, fresh) {
        Ok(node) => {
            line.shows_backend = is_ours(keeper, index);
            // Of a device that stayed attached udev knows already.
            if fresh && let Err(error) = keeper.host.settle(index, since, UDEV) {
                tracing::warn!("{error}; the volume is served without waiting for its links");
            }
            Ok((line, Attached { index, node }))
        }
        Err(why) => {
            // Nobody can have begun to use what was attached a moment ago.
            if fresh && let Err(error) = line.netlink.disconnect(index) {
                tracing::warn!("{error}");
            }
            Err(why)
        }
    }
}

/// Sees to the device's queue and sees it answer; says where its node is.
fn set_up(keeper: &Keeper, index: u32, fresh: bool) -> Result<PathBuf, String> {
    let node = keeper.host.wait_for_node(index, NODE).map_err(|error| error.to_string())?;
    let tuned = keeper.host.tune(index, &keeper.wanted.limits);
    for refused in tuned.refused {
        tracing::warn!(
            "nbd{index}: {} cannot be set to {} ({}); the device is slower than it could be",
            refused.file,
            refused.value,
            refused.error
        );
    }
    first_read(&node, fresh)?;
    Ok(node)
}

fn open_line(keeper: &Keeper, netlink: Option<OwnedFd>) -> Result<Line, String> {
    let netlink = match netlink {
        Some(fd) => Netlink::from_fd(fd),
        None => Netlink::open(),
    };
    let netlink = netlink.map_err(|error| error.to_string())?;
    // Before anything may die.
    let events = Events::subscribe().map_err(|error| error.to_string())?;
    Ok(Line { netlink, events, shows_backend: false, sockets: keeper.wanted.sockets })
}

fn backend(keeper: &Keeper) -> &str {
    keeper.wanted.connect.backend.as_deref().unwrap_or_default()
}

fn is_ours(keeper: &Keeper, index: u32) -> bool {
    let attached = keeper.host.attached(index);
    attached.is_some_and(|attached| attached.backend.as_deref() == Some(backend(keeper)))
}

/// The device that the process before had attached. One that was taken away from whoever uses it is shown until
/// he lets go of it, and is of no use to anybody.
fn find(keeper: &Keeper, line: &mut Line) -> Result<Option<u32>, String> {
    let backend = backend(keeper);
    for index in keeper.host.find_backend(backend).map_err(|error| error.to_string())? {
        if !line.netlink.is_cut_off(index, backend).map_err(|error| error.to_string())? {
            return Ok(Some(index));
        }
        let holders = keeper.host.holders(index);
        tracing::warn!("nbd{index} was cut off by a stop, and is still {holders}; it is left to that");
    }
    Ok(None)
}

/// A device that is attached already must be one of this volume as it is now.
fn fits(keeper: &Keeper, index: u32) -> Result<(), String> {
    let Some(attached) = keeper.host.attached(index) else { return Ok(()) };
    let (is, wanted) = (attached.size, keeper.wanted.connect.size);
    if is != wanted {
        return Err(format!(
            "/dev/nbd{index} is attached to {}, but has {is} bytes, and the volume has {wanted}; if nothing \
             uses it, `nbd-client -d /dev/nbd{index}` detaches it",
            backend(keeper)
        ));
    }
    if !attached.read_only && keeper.wanted.read_only {
        return Err(format!(
            "/dev/nbd{index} is attached for writing, and `read_only` is set now; stop the volume without it \
             first"
        ));
    }
    Ok(())
}

/// The connections of the process before this one are the shard's by now. Some may have been lost on the way,
/// or while nobody served; what the kernel gives up on from here on `events` tells.
fn take_over(
    keeper: &Keeper,
    line: &mut Line,
    record: &DeviceRecord,
    sockets: &[OwnedFd],
) -> Result<u32, String> {
    let index = record.index;
    fits(keeper, index)?;
    tracing::info!("nbd{index}: taken over from the process before");
    // Whatever the configuration asks for by now.
    line.sockets = record.sockets;
    let alive = sockets.iter().filter(|socket| is_alive(socket)).count();
    let missing = record.sockets.saturating_sub(alive);
    if missing > 0 {
        tracing::warn!("nbd{index}: {missing} connections were lost on the way; it gets new ones");
        keeper.replace(line, index, missing, DEAD)?;
    }
    Ok(index)
}

/// Whether the kernel has not shut a connection down.
fn is_alive(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// New sockets for a device whose server died. Every write of that server has ended: the members were
/// waited for before they were read.
fn reconnect(keeper: &Keeper, line: &mut Line, index: u32) -> Result<u32, String> {
    fits(keeper, index)?;
    tracing::warn!("nbd{index}: its daemon died; it gets new connections");
    let count = keeper.replace(line, index, keeper.wanted.sockets, DEAD)?;
    tracing::info!(
        "nbd{index}: {count} new connections; requests that were in flight come again within {} seconds",
        keeper.wanted.connect.timeout.as_secs()
    );
    Ok(index)
}

fn connect(keeper: &Keeper, line: &mut Line) -> Result<u32, String> {
    let pairs = socket_pairs(keeper.wanted.sockets).map_err(|error| error.to_string())?;
    let (mut kernel, mut ours) = (Vec::new(), Vec::new());
    for SocketPair { kernel: theirs, server } in pairs {
        kernel.push(theirs);
        ours.push(server);
    }
    // Served first: attaching may make the kernel read.
    keeper.serve(ours)?;
    let ends: Vec<_> = kernel.iter().map(AsFd::as_fd).collect();
    let index = line.netlink.connect(&keeper.wanted.connect, &ends).map_err(|error| {
        let hint = match keeper.wanted.connect.device {
            _ if !Capability::SysAdmin.is_effective() => "; run it as root, or without `device`",
            DeviceChoice::Index(_) => "; `device = \"auto\"` takes a free one",
            DeviceChoice::Auto => "",
        };
        format!("{error}{hint}")
    })?;
    tracing::info!("nbd{index}: attached with {} connections", ends.len());
    Ok(index)
}

/// Sees the device answer, past all caches. The thread that reads cannot be interrupted, so it is left
/// behind if the device does not answer. An error is an answer to whoever has used the device before: it may
/// be that this block alone is lost, which is no reason to take all others away.
fn first_read(node: &std::path::Path, fresh: bool) -> Result<(), String> {
    let (tell, told) = channel();
    let path = node.to_owned();
    std::thread::Builder::new()
        .name("uraid first read".to_owned())
        .spawn(move || tell.send(read_first_block(&path)))
        .map_err(|error| error.to_string())?;
    match told.recv_timeout(FIRST_READ) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if !fresh => {
            tracing::warn!("{}: its first block cannot be read: {error}", node.display());
            Ok(())
        }
        Ok(Err(error)) => Err(format!("{}: it does not answer a read: {error}", node.display())),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(format!(
            "{}: it did not answer a read within {} seconds",
            node.display(),
            FIRST_READ.as_secs()
        )),
    }
}

fn read_first_block(node: &std::path::Path) -> io::Result<()> {
    let device = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(node)?;
    let mut memory = vec![0; 2 * ALIGNMENT];
    let at = memory.as_ptr().align_offset(ALIGNMENT);
    let block = memory.get_mut(at..).and_then(|rest| rest.get_mut(..ALIGNMENT)).unwrap_or_default();
    device.read_exact_at(block, 0)
}
