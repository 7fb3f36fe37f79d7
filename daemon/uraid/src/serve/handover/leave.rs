//! The old process's part: to store everything that the next one needs, the state last.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nbd_rs::ExportInfo;
use nix::sys::stat::fstat;
use uraid_shard::{ConnectionKind, NewConnection};

use super::session::Agreement;
use super::state::{ArrayFacts, Bytes, ConnectionRecord, Descriptor, DeviceRecord, ListenerRecord, State};
use super::store;

/// The name under which the state is stored.
pub(super) const STATE: &str = "state";
/// And the socket through which the device was attached.
pub(super) const NETLINK: &str = "netlink";

/// Everything that is left to the next process.
pub(crate) struct Leaving {
    pub(crate) array: ArrayFacts,
    /// Events of the superblocks, if the array is marked clean on all members.
    pub(crate) ended_at: Option<u64>,
    /// What the clients know of it.
    pub(crate) export: ExportInfo,
    pub(crate) connections: Vec<NewConnection>,
    /// With their addresses as they were bound.
    pub(crate) listeners: Vec<(String, OwnedFd)>,
    pub(crate) device: Option<DeviceRecord>,
    pub(crate) netlink: Option<OwnedFd>,
}

/// Stores it. No connection may be used by this process any more. When this returns, the service manager has
/// all of it.
///
/// # Errors
/// The manager cannot be told. What it has then has no state, so that nobody goes on with it.
pub(crate) fn leave(leaving: &Leaving) -> io::Result<()> {
    let (state, bytes) = state_of(leaving)?;
    let image: File = state.write(&bytes)?;
    store::remove(STATE)?;
    let sockets = leaving.connections.iter().map(|connection| &connection.socket);
    for (record, socket) in state.connections.iter().zip(sockets) {
        keep_alone(&record.descriptor.name, socket)?;
    }
    for (record, (_, socket)) in state.listeners.iter().zip(&leaving.listeners) {
        keep_alone(&record.descriptor.name, socket)?;
    }
    if let Some(netlink) = &leaving.netlink {
        keep_alone(NETLINK, netlink)?;
    }
    store::keep(STATE, image.as_fd())?;
    store::barrier()
}

/// Stores a descriptor in the place of all that have its name.
fn keep_alone(name: &str, fd: &OwnedFd) -> io::Result<()> {
    store::remove(name)?;
    store::keep(name, fd.as_fd())
}

pub(super) fn state_of(leaving: &Leaving) -> io::Result<(State, Bytes)> {
    let mut bytes = Bytes::default();
    let connections = leaving.connections.iter().enumerate().map(|(number, connection)| {
        Ok(ConnectionRecord {
            descriptor: describe(format!("nbd-{number}"), &connection.socket)?,
            kernel: connection.kind == ConnectionKind::Kernel,
            agreement: Agreement::of(&connection.session, &leaving.export),
            peer: connection.peer.clone(),
            leftover: bytes.add(&connection.leftover),
            unsent: bytes.add(&connection.unsent),
        })
    });
    let connections = connections.collect::<io::Result<_>>()?;
    let listeners = leaving.listeners.iter().enumerate().map(|(number, (address, socket))| {
        let descriptor = describe(format!("listen-{number}"), socket)?;
        Ok(ListenerRecord { descriptor, address: address.clone() })
    });
    let state = State {
        array: leaving.array.clone(),
        ended_at: leaving.ended_at,
        device: leaving.device.clone(),
        connections,
        listeners: listeners.collect::<io::Result<_>>()?,
    };
    Ok((state, bytes))
}

fn describe(name: String, socket: &OwnedFd) -> io::Result<Descriptor> {
    Ok(Descriptor { name, inode: inode_of(socket)? })
}

pub(super) fn inode_of(socket: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}
