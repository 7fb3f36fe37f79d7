//! The sockets on which clients and operators knock.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::unistd::geteuid;
use uraid_config::{Access, Account, Address, Config, RUN_DIR};

use super::handover::Inheritance;
use super::peers::group;
use crate::control::socket::{SocketFile, Stays, listen, listen_as};
use crate::failure::Failure;

/// Its members can read and write disks.
const DISK_GROUP: &str = "disk";

/// A bound address for clients.
#[derive(Debug)]
pub(super) enum Listener {
    /// A unix socket and its file, which goes away with this.
    Unix(UnixListener, SocketFile),
    /// A TCP port.
    Tcp(TcpListener),
}

/// All sockets of one daemon.
#[derive(Debug)]
pub(super) struct Sockets {
    /// For clients; the addresses as they were bound, so that port 0 became a number.
    pub(super) exports: Vec<(Address, Listener)>,
    /// For operators.
    pub(super) control: (UnixListener, SocketFile),
}

/// A listening socket, to be left to the next process.
#[derive(Debug)]
pub(super) struct Kept {
    /// As it was bound.
    pub(super) address: String,
    pub(super) socket: OwnedFd,
    /// So that the file of a unix socket stays.
    pub(super) file: Option<Stays>,
}

impl Kept {
    /// From now on the file of a unix socket stays when this process closes it. Should nobody come after it,
    /// the file is one that a daemon left that was killed, and is replaced by the next.
    pub(super) fn stay(&self) {
        self.file.iter().for_each(Stays::stay);
    }
}

impl Sockets {
    /// The sockets for clients once more, for a hand-over. Those of which the process can have no second
    /// descriptor are left out.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let kept = self.exports.iter().filter_map(|(address, listener)| {
            let (socket, file) = match listener {
                Listener::Unix(listener, file) => (listener.as_fd(), Some(file.stays())),
                Listener::Tcp(listener) => (listener.as_fd(), None),
            };
            let socket = socket.try_clone_to_owned().ok()?;
            Some(Kept { address: address.to_string(), socket, file })
        });
        kept.collect()
    }

    /// Binds what the configuration asks for. An address that other machines can reach is bound only if TLS
    /// is required there or the configuration calls itself insecure, whoever made it.
    ///
    /// # Errors
    /// The first address that cannot be bound; those before it are given up.
    pub(super) fn bind(config: &Config, name: &str, left: &mut Inheritance) -> Result<Self, Failure> {
        let addresses = config.addresses(name);
        if let Some(address) = addresses.iter().find(|address| config.is_exposed(address)) {
            return Err(Failure::Usage(format!(
                "{address} can be reached by other machines, without encryption or a password; use \
                 127.0.0.1 or [::1], require TLS with a certificate, or say insecure if the network is trusted"
            )));
        }
        let group = socket_group(&config.access)?;
        let control = config.control_socket(name);
        make_run_directory(&control);
        let control = listen(&control).map_err(Failure::operating)?;
        let access = (config.access.socket_mode, group);
        let adopted: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let listener = adopt(&address, left, access);
                (address, listener)
            })
            .collect();
        // An address that was changed may overlap with what it was before.
        left.close_listeners();
        let bind = |(address, adopted): (Address, Option<Listener>)| match adopted {
            Some(listener) => Ok((address, listener)),
            None => bind_export(address, config.access.socket_mode, group),
        };
        let exports = adopted.into_iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Sockets { exports, control })
    }
}

/// The group of unix sockets for clients: the one that is named, or disk for a daemon that may give it.
///
/// # Errors
/// There is no group of the name that is named.
pub(super) fn socket_group(access: &Access) -> Result<Option<u32>, Failure> {
    match &access.socket_group {
        Some(account) => group(account, "socket_group").map(Some).map_err(Failure::operating),
        None if geteuid().is_root() => Ok(group(&Account::Name(DISK_GROUP.to_owned()), "socket_group").ok()),
        None => Ok(None),
    }
}

/// The socket of a process before this one, in which clients wait to be let in. One whose file is gone is
/// given up, for nobody finds it; so is one that may not be given the mode and group of `access`.
fn adopt(address: &Address, left: &mut Inheritance, access: (u32, Option<u32>)) -> Option<Listener> {
    let socket = left.take_listener(&address.to_string())?;
    let path = match address {
        Address::Unix(path) => path,
        Address::Tcp(_) => return Some(Listener::Tcp(TcpListener::from(socket))),
    };
    let file = SocketFile::adopt(path)?;
    let (mode, group) = access;
    std::os::unix::fs::chown(path, None, group).ok()?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).ok()?;
    Some(Listener::Unix(UnixListener::from(socket), file))
}

fn bind_export(address: Address, mode: u32, group: Option<u32>) -> Result<(Address, Listener), Failure> {
    match address {
        Address::Unix(path) => {
            make_run_directory(&path);
            let (listener, file) = listen_as(&path, mode, group).map_err(Failure::operating)?;
            Ok((Address::Unix(path), Listener::Unix(listener, file)))
        }
        Address::Tcp(address) => {
            let failed =
                |error: io::Error| Failure::operating(format!("cannot listen on tcp:{address}: {error}"));
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Ok((Address::Tcp(bound), Listener::Tcp(listener)))
        }
    }
}

/// Without a service unit nobody has made the directory of the default sockets. Whatever goes wrong here
/// is told when the socket is made.
fn make_run_directory(socket: &Path) {
    if socket.parent() == Some(Path::new(RUN_DIR)) && !Path::new(RUN_DIR).exists() {
        let _ = std::fs::DirBuilder::new().mode(0o755).create(RUN_DIR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_config::TlsMode;

    fn config(listen: &[&str], directory: &Path) -> Config {
        let mut config = Config::with_members(vec!["/m".into()]);
        config.listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        config.control = Some(directory.join("control"));
        config
    }

    #[test]
    fn port_0_becomes_a_port_and_files_go_away() {
        let directory = tempfile::tempdir().unwrap();
        let unix = format!("unix:{}", directory.path().join("nbd").display());
        let sockets = Sockets::bind(
            &config(&[&unix, "tcp:127.0.0.1:0"], directory.path()),
            "v",
            &mut Inheritance::default(),
        )
        .unwrap();
        assert!(matches!(sockets.exports[1].0, Address::Tcp(address) if address.port() != 0));
        assert!(directory.path().join("nbd").exists() && directory.path().join("control").exists());
        drop(sockets);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_network_is_refused_unless_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&["tcp:0.0.0.0:0"], directory.path());
        let error = Sockets::bind(&config, "v", &mut Inheritance::default()).unwrap_err();
        assert!(error.to_string().contains("other machines"), "{error}");
        config.insecure = true;
        assert!(Sockets::bind(&config, "v", &mut Inheritance::default()).is_ok());
        config.insecure = false;
        config.tls.certificate = Some("/c".into());
        assert!(Sockets::bind(&config, "v", &mut Inheritance::default()).is_ok(), "required by default");
        config.tls.mode = TlsMode::Offered;
        assert!(Sockets::bind(&config, "v", &mut Inheritance::default()).is_err());
    }

    #[test]
    fn unix_sockets_have_the_mode_and_group_that_are_asked_for() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        let mut config = config(&[&format!("unix:{}", path.display())], directory.path());
        let own = nix::unistd::getegid().as_raw();
        config.access.socket_group = Some(Account::Id(own));
        for mode in [0o660, 0o600, 0o666] {
            config.access.socket_mode = mode;
            let sockets = Sockets::bind(&config, "v", &mut Inheritance::default()).unwrap();
            let metadata = path.metadata().unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.gid()), (mode, own));
            let control = directory.path().join("control").metadata().unwrap();
            assert_eq!(control.mode() & 0o777, 0o660);
            drop(sockets);
        }
        config.access.socket_group = Some(Account::Name("no-such-group".to_owned()));
        let error = Sockets::bind(&config, "v", &mut Inheritance::default()).unwrap_err();
        assert!(error.to_string().contains("no-such-group"), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_taken_address_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", first.local_addr().unwrap());
        let error = Sockets::bind(&config(&[&address], directory.path()), "v", &mut Inheritance::default())
            .unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
