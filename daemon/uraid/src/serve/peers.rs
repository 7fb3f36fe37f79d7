//! Who is at the other end of a socket, as far as the kernel says: which of them may come in, and how many
//! connections each has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt, sockopt};
use nix::unistd::{Group, User};
use uraid_config::{Access, Account};

/// Those that count as one client when there are many.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Peer {
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 network of 64 bits, which is what a single machine is commonly given.
    V6(u64),
    /// A user of this machine, at a unix socket.
    User(u32),
    /// The socket does not say.
    Unknown,
}

impl Peer {
    /// The peer at this address.
    pub(super) fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Peer::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Peer::V6([a, b, c, d].into_iter().fold(0, |net, part| net << 16 | u64::from(part)))
            }
        }
    }
}

impl Peer {
    /// The peer at the other end of a connected socket.
    pub(super) fn of_socket(socket: &impl AsFd) -> Self {
        let address = getpeername::<SockaddrStorage>(socket.as_fd().as_raw_fd()).ok();
        let v4 = address.as_ref().and_then(|address| address.as_sockaddr_in());
        let v6 = address.as_ref().and_then(|address| address.as_sockaddr_in6());
        match (v4, v6) {
            (Some(address), _) => Peer::of_ip(address.ip().into()),
            (_, Some(address)) => Peer::of_ip(address.ip().into()),
            _ => getsockopt(socket, sockopt::PeerCredentials)
                .map_or(Peer::Unknown, |found| Peer::User(found.uid())),
        }
    }
}

/// What the kernel says of a process at a unix socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Credentials {
    /// Its user when it connected.
    pub(super) uid: u32,
    /// Its group.
    pub(super) gid: u32,
    /// Its further groups.
    pub(super) groups: Vec<u32>,
}

/// Who may connect to unix sockets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Allowed {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Allowed {
    /// Looks the names up.
    ///
    /// # Errors
    /// The first name that nobody has.
    pub(super) fn resolve(access: &Access) -> Result<Self, String> {
        let users = access.allow_users.iter().map(|account| user(account, "allow_users"));
        let groups = access.allow_groups.iter().map(|account| group(account, "allow_groups"));
        Ok(Allowed { users: users.collect::<Result<_, _>>()?, groups: groups.collect::<Result<_, _>>()? })
    }

    /// Whether one with these credentials may. One without any may where everybody may.
    pub(super) fn lets_in(&self, peer: Option<&Credentials>) -> bool {
        if self.users.is_empty() && self.groups.is_empty() {
            return true;
        }
        let Some(peer) = peer else { return false };
        let mut groups = peer.groups.iter().chain([&peer.gid]);
        self.users.contains(&peer.uid) || groups.any(|group| self.groups.contains(group))
    }
}

fn user(account: &Account, key: &str) -> Result<u32, String> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("`{key}` names a user {name:?}, and this machine has none")),
        Err(error) => Err(format!("`{key}`: the user {name:?} cannot be looked up: {error}")),
    }
}

/// The number of a group; `key` is what names it.
///
/// # Errors
/// There is none.
pub(super) fn group(account: &Account, key: &str) -> Result<u32, String> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("`{key}` names a group {name:?}, and this machine has none")),
        Err(error) => Err(format!("`{key}`: the group {name:?} cannot be looked up: {error}")),
    }
}

/// The connections of each peer, after their handshakes.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Arc<Mutex<HashMap<Peer, usize>>>);

impl Peers {
    /// Counts one more connection, for as long as what is returned is kept; nothing if the peer has `most`
    /// already. 0 is no limit.
    pub(super) fn admit(&self, peer: Peer, most: usize) -> Option<Admission> {
        let mut counts = self.lock();
        let count = counts.entry(peer).or_default();
        // That it was there before is why it is not left behind with a zero here.
        if most > 0 && *count >= most {
            return None;
        }
        *count += 1;
        Some(Admission { peers: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One counted connection.
#[derive(Debug)]
pub(super) struct Admission {
    peers: Peers,
    peer: Peer,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.peers.lock();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_address_or_a_network() {
        let peer = |text: &str| Peer::of_ip(text.parse().unwrap());
        assert_eq!(peer("192.0.2.1"), peer("::ffff:192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::2"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
    }

    #[test]
    fn a_socket_says_whose_it_is() {
        use std::net::{TcpListener, TcpStream};
        use std::os::unix::net::UnixStream;
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Peer::of_socket(&ours), Peer::User(nix::unistd::getuid().as_raw()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(Peer::of_socket(&listener.accept().unwrap().0), Peer::V4([127, 0, 0, 1]));
        assert_eq!(Peer::of_socket(&std::fs::File::open("/dev/null").unwrap()), Peer::Unknown);
    }

    #[test]
    fn lists_name_users_and_any_group_of_a_process() {
        let asked = |allowed: &Allowed, uid, gid, groups: &[u32]| {
            allowed.lets_in(Some(&Credentials { uid, gid, groups: groups.to_vec() }))
        };
        let anybody = Allowed::default();
        assert!(asked(&anybody, 1000, 1000, &[]) && anybody.lets_in(None));
        let allowed = Allowed { users: vec![33], groups: vec![6] };
        assert!(asked(&allowed, 33, 33, &[]));
        assert!(asked(&allowed, 1000, 6, &[]) && asked(&allowed, 1000, 1000, &[4, 6]));
        assert!(!asked(&allowed, 0, 0, &[0]) && !asked(&allowed, 6, 33, &[33]));
        assert!(!allowed.lets_in(None));
    }

    #[test]
    fn names_are_looked_up_and_unknown_ones_told() {
        let access = |user: &str, group: &str| Access {
            allow_users: vec![user.parse().unwrap()],
            allow_groups: vec![group.parse().unwrap()],
            ..Access::default()
        };
        assert_eq!(Allowed::resolve(&access("root", "6")), Ok(Allowed { users: vec![0], groups: vec![6] }));
        let error = Allowed::resolve(&access("nobody-of-that-name", "6")).unwrap_err();
        assert!(error.contains("allow_users") && error.contains("nobody-of-that-name"), "{error}");
        assert!(Allowed::resolve(&access("0", "no-such-group")).unwrap_err().contains("allow_groups"));
    }

    #[test]
    fn connections_of_a_peer_are_counted_while_they_last() {
        let peers = Peers::default();
        let (a, b) = (Peer::User(1), Peer::User(2));
        let first = peers.admit(a, 2).unwrap();
        let second = peers.admit(a, 2).unwrap();
        assert!(peers.admit(a, 2).is_none() && peers.admit(b, 2).is_some());
        assert!(peers.admit(a, 0).is_some(), "no limit");
        drop(first);
        let third = peers.admit(a, 2).unwrap();
        drop((second, third));
        assert!(peers.lock().is_empty());
    }
}
