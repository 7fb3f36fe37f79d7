//! The new process's part: to find out what can be gone on with, and to break what cannot.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use nbd_rs::ExportInfo;
use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt};
use uraid_shard::NewConnection;

use super::leave::{NETLINK, STATE, inode_of};
use super::state::{ArrayFacts, Bytes, ConnectionRecord, Descriptor, DeviceRecord, State};
use super::store;

/// The names of connections begin so.
const CONNECTION: &str = "nbd-";
/// And those of listening sockets so.
const LISTENER: &str = "listen-";

/// What the service manager kept of an earlier process. As long as nothing is done with it, it stays in the
/// store: a start that fails loses nothing.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    descriptors: Vec<(String, OwnedFd)>,
    state: Option<Read>,
    /// What there is to be taken out of the store.
    names: Vec<String>,
}

#[derive(Debug)]
struct Read {
    file: File,
    state: State,
    bytes: Bytes,
}

/// What this process goes on with.
#[derive(Default)]
pub(crate) struct Inherited {
    pub(crate) connections: Vec<NewConnection>,
    pub(crate) device: Option<DeviceRecord>,
    /// The socket through which the device was attached; kept also if there is nothing else.
    pub(crate) netlink: Option<OwnedFd>,
    /// Whether there were connections that could not be gone on with.
    pub(crate) broken: bool,
}

impl Inheritance {
    /// Takes the descriptors that this process was started with. To be called first of all.
    pub(crate) fn take() -> Self {
        let descriptors = match uraid_blockio::inherited() {
            Ok(descriptors) => descriptors,
            Err(error) => {
                tracing::warn!("the descriptors that this process was started with cannot be used: {error}");
                Vec::new()
            }
        };
        Self::of(descriptors)
    }

    fn of(descriptors: Vec<(String, OwnedFd)>) -> Self {
        let mut names: Vec<String> = descriptors.iter().map(|(name, _)| name.clone()).collect();
        names.retain(|name| name == STATE || [CONNECTION, LISTENER].iter().any(|own| name.starts_with(own)));
        names.sort();
        names.dedup();
        let mut inheritance = Inheritance { descriptors, state: None, names };
        let mut states = inheritance.take_named(STATE);
        if let (Some(state), []) = (states.pop(), states.as_slice()) {
            let file = File::from(state);
            match State::read(&file) {
                Ok((state, bytes)) => inheritance.state = Some(Read { file, state, bytes }),
                Err(error) => tracing::warn!("what an earlier process left is not used: {error}"),
            }
        }
        if inheritance.state.is_none() {
            inheritance.close_listeners();
        }
        inheritance
    }

    /// Has the listening sockets that nobody took listen no more: the store keeps copies, so that their
    /// addresses would be in use otherwise, also for other addresses of the same port.
    pub(crate) fn close_listeners(&self) {
        for (name, socket) in &self.descriptors {
            if name.starts_with(LISTENER) {
                let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
            }
        }
    }

    /// Whether an earlier process has left the array of this name and number as it is now, at this count of events:
    /// served until then, with nothing being written any more.
    pub(crate) fn is_of(&self, uuid: &str, name: &str, events: u64) -> bool {
        self.state.as_ref().is_some_and(|Read { state, .. }| {
            state.array.uuid == uuid && state.array.name == name && state.ended_at == Some(events)
        })
    }

    /// The listening socket of an address, if an earlier process left it.
    pub(crate) fn take_listener(&mut self, address: &str) -> Option<OwnedFd> {
        let state = &self.state.as_ref()?.state;
        let record = state.listeners.iter().find(|record| record.address == address)?.clone();
        let socket = self.take_described(&record.descriptor)?;
        // A start that failed may have closed it (`close_listeners`), and the configuration was set back.
        getsockopt(&socket, sockopt::AcceptConn).is_ok_and(|listens| listens).then_some(socket)
    }

    /// Decides about the rest, now that the array is known: connections of this very array are gone on with,
    /// all others are shut down. From here on nothing that was left is good for another process, and the
    /// store is emptied.
    pub(crate) fn settle(mut self, array: &ArrayFacts, export: &ExportInfo) -> Inherited {
        let netlink = self.take_named(NETLINK).pop();
        let mut inherited = Inherited { netlink, ..Inherited::default() };
        if let Some(Read { file, state, bytes }) = self.state.take() {
            match fits(&state.array, array)
                .and_then(|()| State::mark_used(&file).map_err(|error| error.to_string()))
            {
                Ok(()) => {
                    for record in &state.connections {
                        match self.revive(record, &bytes, export) {
                            Some(connection) => inherited.connections.push(connection),
                            None => inherited.broken = true,
                        }
                    }
                    inherited.device = state.device;
                }
                Err(why) => tracing::warn!("what an earlier process left is not used: {why}"),
            }
        }
        for (name, socket) in &self.descriptors {
            if name.starts_with(CONNECTION) {
                inherited.broken = true;
                tracing::info!("{name}, a connection of an earlier process, is broken off");
                // The store keeps a copy, so that closing it would tell nobody. One that is not connected any
                // more is as good as shut down.
                let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
            }
        }
        // What this process has, or wants to be rid of, is not the manager's to keep any more.
        for name in &self.names {
            if let Err(error) = store::remove(name) {
                tracing::debug!("the service manager keeps {name}: {error}");
            }
        }
        inherited
    }

    fn revive(
        &mut self,
        record: &ConnectionRecord,
        bytes: &Bytes,
        export: &ExportInfo,
    ) -> Option<NewConnection> {
        let session = record.agreement.session(export)?;
        let (leftover, unsent) = (bytes.get(record.leftover)?, bytes.get(record.unsent)?);
        let socket = self.take_described(&record.descriptor)?;
        let mut connection = match record.kernel {
            true => NewConnection::kernel(socket, session, record.peer.clone()),
            false => NewConnection::client(socket, session, Vec::new(), record.peer.clone()),
        };
        connection.leftover = leftover.to_vec();
        connection.unsent = unsent.to_vec();
        Some(connection)
    }

    fn take_named(&mut self, wanted: &str) -> Vec<OwnedFd> {
        self.descriptors.extract_if(.., |(name, _)| name == wanted).map(|(_, fd)| fd).collect()
    }

    /// The one descriptor of this name that is the one that was described.
    fn take_described(&mut self, wanted: &Descriptor) -> Option<OwnedFd> {
        let is_it = |(name, fd): &(String, OwnedFd)| {
            *name == wanted.name && inode_of(fd).is_ok_and(|inode| inode == wanted.inode)
        };
        let at = self.descriptors.iter().position(is_it)?;
        Some(self.descriptors.swap_remove(at).1)
    }
}

fn fits(left: &ArrayFacts, array: &ArrayFacts) -> Result<(), String> {
    if left.uuid != array.uuid || left.name != array.name {
        return Err(format!("it is of the array {} ({}), not of this one", left.name, left.uuid));
    }
    if left.size != array.size {
        return Err(format!("the array had {} bytes then, and has {} now", left.size, array.size));
    }
    if left.block != array.block || left.flags != array.flags {
        return Err("clients were told other block sizes or features than there are now".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::handover::leave::{Leaving, state_of};
    use nbd_rs::{BlockSizes, Features, Headers, Negotiated, Session};
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn export() -> ExportInfo {
        ExportInfo::new("v", 1 << 20, BlockSizes::default(), Features::default()).unwrap()
    }

    fn facts() -> ArrayFacts {
        ArrayFacts { uuid: "u".into(), name: "v".into(), size: 1 << 20, block: 512, flags: 1 }
    }

    /// What a process leaves that has one client and listens at one address, and the client's end.
    fn left() -> (Vec<(String, OwnedFd)>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let session =
            Session::new(&export(), &Negotiated { headers: Headers::Structured, ..Negotiated::default() });
        let mut client = NewConnection::client(theirs.into(), session, b"left".to_vec(), "peer".into());
        client.unsent = b"unsent".to_vec();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let leaving = Leaving {
            array: facts(),
            ended_at: Some(41),
            export: export(),
            connections: vec![client],
            listeners: vec![("unix:/s".to_owned(), listener.into())],
            device: Some(DeviceRecord { index: 7, sockets: 2 }),
            netlink: None,
        };
        let (state, bytes) = state_of(&leaving).unwrap();
        let image = state.write(&bytes).unwrap();
        let mut descriptors = vec![("state".to_owned(), OwnedFd::from(image))];
        descriptors.extend(leaving.connections.into_iter().map(|one| ("nbd-0".to_owned(), one.socket)));
        descriptors.extend(leaving.listeners.into_iter().map(|(_, fd)| ("listen-0".to_owned(), fd)));
        (descriptors, ours)
    }

    fn is_open(stream: &mut UnixStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[test]
    fn connections_of_this_array_are_gone_on_with_once() {
        let (descriptors, mut client) = left();
        let copy = descriptors.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect();
        let mut inheritance = Inheritance::of(descriptors);
        assert!(inheritance.take_listener("unix:/other").is_none());
        assert!(inheritance.take_listener("unix:/s").is_some());
        assert!(inheritance.take_listener("unix:/s").is_none());
        let inherited = inheritance.settle(&facts(), &export());
        let [connection] = inherited.connections.as_slice() else { panic!("one connection") };
        assert_eq!((&connection.leftover[..], &connection.unsent[..]), (&b"left"[..], &b"unsent"[..]));
        assert!(connection.session.structured() && connection.peer == "peer" && !inherited.broken);
        assert_eq!(inherited.device, Some(DeviceRecord { index: 7, sockets: 2 }));
        assert!(is_open(&mut client));

        // Somebody crashed after that: the state is used, so its connection is broken off.
        let inherited = Inheritance::of(copy).settle(&facts(), &export());
        assert!(inherited.connections.is_empty() && inherited.device.is_none() && inherited.broken);
        assert!(!is_open(&mut client));
    }

    /// Whoever read the state before another process went on with it must not go on with it as well.
    #[test]
    fn of_two_that_read_the_state_one_goes_on() {
        let (descriptors, mut client) = left();
        let copy = descriptors.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect();
        let (first, second) = (Inheritance::of(descriptors), Inheritance::of(copy));
        assert!(second.state.is_some());
        let gone_on = first.settle(&facts(), &export());
        assert_eq!(gone_on.connections.len(), 1);
        drop(gone_on);
        let inherited = second.settle(&facts(), &export());
        assert!(inherited.connections.is_empty() && inherited.device.is_none() && inherited.broken);
        assert!(!is_open(&mut client));
    }

    /// Somebody else may have served the array since, and crashed.
    #[test]
    fn a_state_is_of_one_array_at_one_moment() {
        let (descriptors, _client) = left();
        let inheritance = Inheritance::of(descriptors);
        assert!(inheritance.is_of("u", "v", 41));
        for (uuid, name, events) in [("w", "v", 41), ("u", "w", 41), ("u", "v", 40), ("u", "v", 42)] {
            assert!(!inheritance.is_of(uuid, name, events));
        }
        let (mut descriptors, _client) = left();
        descriptors.remove(0);
        assert!(!Inheritance::of(descriptors).is_of("u", "v", 41));
    }

    #[test]
    fn what_does_not_fit_is_broken_off() {
        for other in [
            ArrayFacts { uuid: "w".into(), ..facts() },
            ArrayFacts { name: "w".into(), ..facts() },
            ArrayFacts { size: 2 << 20, ..facts() },
            ArrayFacts { flags: 3, ..facts() },
        ] {
            let (descriptors, mut client) = left();
            let inherited = Inheritance::of(descriptors).settle(&other, &export());
            assert!(inherited.connections.is_empty() && inherited.broken);
            assert!(!is_open(&mut client));
            assert!(client.write(b"x").is_err());
        }
    }

    #[test]
    fn without_a_whole_state_nothing_is_used() {
        // None, two, and one that was cut off.
        for kind in 0..3 {
            let (mut descriptors, mut client) = left();
            let state = descriptors.remove(0);
            match kind {
                0 => {}
                1 => {
                    descriptors.push((STATE.to_owned(), state.1.try_clone().unwrap()));
                    descriptors.push(state);
                }
                _ => {
                    let file = File::from(state.1);
                    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
                    descriptors.push((STATE.to_owned(), file.into()));
                }
            }
            let inherited = Inheritance::of(descriptors).settle(&facts(), &export());
            assert!(inherited.connections.is_empty() && inherited.broken, "{kind}");
            assert!(!is_open(&mut client));
        }
    }

    /// The store has copies of what this process closes, so that an address in use would stay so.
    #[test]
    fn listeners_that_nobody_takes_keep_no_address() {
        use std::net::TcpListener;
        let with_listener = |address: &str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let leaving = Leaving {
                array: facts(),
                ended_at: None,
                export: export(),
                connections: vec![],
                listeners: vec![(address.replace('P', &port.to_string()), listener.into())],
                device: None,
                netlink: None,
            };
            let (state, bytes) = state_of(&leaving).unwrap();
            let state = OwnedFd::from(state.write(&bytes).unwrap());
            let listener = leaving.listeners.into_iter().map(|(_, fd)| ("listen-0".to_owned(), fd));
            let store: Vec<_> = std::iter::once(("state".to_owned(), state)).chain(listener).collect();
            (store, port)
        };
        let copy = |descriptors: &[(String, OwnedFd)]| -> Vec<(String, OwnedFd)> {
            descriptors.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect()
        };

        // Another address of the same port is wanted.
        let (store, port) = with_listener("tcp:127.0.0.1:P");
        let mut inheritance = Inheritance::of(copy(&store));
        assert!(inheritance.take_listener(&format!("tcp:0.0.0.0:{port}")).is_none());
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "it listens as long as it may be taken");
        inheritance.close_listeners();
        drop(TcpListener::bind(("0.0.0.0", port)).unwrap());
        // That start failed, and then it is as it was.
        let mut inheritance = Inheritance::of(copy(&store));
        assert!(inheritance.take_listener(&format!("tcp:127.0.0.1:{port}")).is_none());
        drop(TcpListener::bind(("127.0.0.1", port)).unwrap());

        // There is no state.
        let (mut store, port) = with_listener("tcp:127.0.0.1:P");
        store.remove(0);
        let _inheritance = Inheritance::of(copy(&store));
        drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
    }

    /// A start that fails before the array is known must not spoil it for the next one.
    #[test]
    fn a_start_that_fails_loses_nothing() {
        let (descriptors, mut client) = left();
        let copy = descriptors.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect();
        drop(Inheritance::of(descriptors));
        let inherited = Inheritance::of(copy).settle(&facts(), &export());
        assert_eq!(inherited.connections.len(), 1);
        assert!(is_open(&mut client));
    }
}
