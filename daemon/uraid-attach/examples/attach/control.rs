//! What a test can do to an attached device: one command a connection, answered with text.
//!
//! | word | what happens |
//! |---|---|
//! | `index` | tells N |
//! | `counts` | tells what was asked for since the last time |
//! | `hold`, `release` | requests are not answered, or are again |
//! | `shut K` | shuts socket K down |
//! | `dead S` | waits up to S seconds for a socket to die and tells of which device |
//! | `replace [S]` | new sockets for all, given up after S seconds |
//! | `offer` | new sockets although none died |
//! | `backend NAME` | acts in this name from now on |
//! | `resize MIB` | another size |
//! | `settle` | waits until udev has dealt with the device |
//! | `link PATH` | waits until the path leads to the device |
//! | `buffer` | bytes of a socket's buffer |
//! | `carry` | the netlink socket goes through a descriptor, as over a restart |
//! | `disconnect` | detaches, and ends |

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{Shutdown, shutdown};
use uraid_attach::{
    AttachError, Connect, Event, Events, Host, Netlink, Reconfigure, Replace, buffer_of, ioctl,
    replace_sockets, socket_pairs,
};

use crate::memory::Memory;
use crate::server::Connection;

/// For everything that should take no time.
const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Controlled {
    wanted: Connect,
    memory: Arc<Memory>,
    connections: Vec<Connection>,
    device: Device,
    /// Before it was attached.
    since: SystemTime,
}

enum Device {
    Netlink { index: u32, netlink: Netlink, events: Events },
    Ioctl(ioctl::Attachment),
    Gone,
}

impl Controlled {
    /// Serves first, then attaches.
    pub(crate) fn attach(wanted: Connect, sockets: usize, memory: Memory, by_ioctl: bool) -> Result<Self> {
        let (memory, since) = (Arc::new(memory), SystemTime::now());
        let (mut kernel, mut connections) = (Vec::new(), Vec::new());
        for pair in socket_pairs(sockets)? {
            kernel.push(pair.kernel);
            connections.push(Connection::serve(pair.server, &memory)?);
        }
        let device = if by_ioctl {
            Device::Ioctl(ioctl::connect(&Host::here(), &wanted, kernel, SOON)?)
        } else {
            let mut netlink = Netlink::open()?;
            let events = Events::subscribe()?;
            let ends: Vec<_> = kernel.iter().map(OwnedFd::as_fd).collect();
            let index = netlink.connect(&wanted, &ends)?;
            Device::Netlink { index, netlink, events }
        };
        Ok(Controlled { wanted, memory, connections, device, since })
    }

    /// Takes over the device that a server that is dead had attached in this name.
    pub(crate) fn adopt(wanted: Connect, sockets: usize, memory: Memory) -> Result<Self> {
        let backend = wanted.backend.as_deref().context("--adopt goes with --backend")?;
        let found = Host::here().find_backend(backend)?;
        let index = *found.first().context("no device is attached in this name")?;
        let (netlink, events) = (Netlink::open()?, Events::subscribe()?);
        let device = Device::Netlink { index, netlink, events };
        let (memory, since) = (Arc::new(memory), SystemTime::now());
        let mut adopted = Controlled { wanted, memory, connections: Vec::new(), device, since };
        adopted.replace_all(&[], sockets, SOON, || Ok(()))?;
        Ok(adopted)
    }

    /// Takes commands until the device is detached.
    pub(crate) fn listen(mut self, path: &str) -> Result<()> {
        Host::here().wait_for_node(self.index()?, SOON)?;
        let listener = UnixListener::bind(path).context("listening to commands")?;
        while !matches!(self.device, Device::Gone) {
            let (mut stream, _) = listener.accept()?;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let told = self.obey(&words).unwrap_or_else(|error| format!("error: {error:#}"));
            stream.write_all(told.trim_end().as_bytes())?;
        }
        std::fs::remove_file(path)?;
        for connection in self.connections {
            connection.join();
        }
        Ok(())
    }

    fn obey(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["index"] => Ok(format!("index {}", self.index()?)),
            ["counts"] => Ok(self.memory.take_counts()),
            ["hold"] => Ok(self.hold(true)),
            ["release"] => Ok(self.hold(false)),
            ["shut", which] => {
                let connection = self.connections.get(which.parse::<usize>()?).context("no such socket")?;
                shutdown(connection.socket.as_raw_fd(), Shutdown::Both)?;
                Ok("shut".to_owned())
            }
            ["dead", seconds] => self.wait_for_death(Duration::from_secs(seconds.parse()?)),
            ["replace"] => self.replace(SOON),
            ["replace", seconds] => self.replace(Duration::from_secs(seconds.parse()?)),
            ["offer"] => self.offer(),
            ["backend", name] => {
                self.wanted.backend = Some((*name).to_owned());
                Ok("done".to_owned())
            }
            ["resize", mib] => self.resize(mib.parse::<u64>()? << 20),
            ["settle"] => Ok(format!("settled {:?}", Host::here().settle(self.index()?, self.since, SOON)?)),
            ["link", path] => {
                Host::here().wait_for_link(self.index()?, Path::new(path), SOON)?;
                Ok("leads there".to_owned())
            }
            ["buffer"] => {
                let connection = self.connections.first().context("no socket")?;
                Ok(format!("buffer {}", buffer_of(&connection.socket)?))
            }
            ["carry"] => self.carry(),
            ["disconnect"] => self.disconnect(),
            _ => bail!("unknown command"),
        }
    }

    fn index(&self) -> Result<u32> {
        match &self.device {
            Device::Netlink { index, .. } => Ok(*index),
            Device::Ioctl(attachment) => Ok(attachment.index()),
            Device::Gone => bail!("it is detached"),
        }
    }

    fn netlink(&mut self) -> Result<(u32, &mut Netlink, &mut Events)> {
        match &mut self.device {
            Device::Netlink { index, netlink, events } => Ok((*index, netlink, events)),
            _ => bail!("it is not attached by netlink"),
        }
    }

    fn hold(&self, hold: bool) -> String {
        self.memory.hold(hold);
        "done".to_owned()
    }

    fn wait_for_death(&mut self, within: Duration) -> Result<String> {
        let (_, _, events) = self.netlink()?;
        Ok(match events.next_until(Instant::now() + within)? {
            Some(Event::LinkDead(index)) => format!("dead {index}"),
            Some(Event::Overrun) => "overrun".to_owned(),
            None => "none".to_owned(),
        })
    }

    fn replace(&mut self, within: Duration) -> Result<String> {
        let old = std::mem::take(&mut self.connections);
        let sockets = old.iter().map(|one| one.socket.try_clone()).collect::<Result<Vec<_>, _>>()?;
        let count = sockets.len();
        self.replace_all(&sockets, count, within, || {
            old.into_iter().for_each(Connection::join);
            Ok(())
        })?;
        Ok(format!("sockets {}", self.connections.len()))
    }

    fn replace_all(
        &mut self,
        old: &[OwnedFd],
        sockets: usize,
        within: Duration,
        fence: impl FnOnce() -> Result<(), AttachError>,
    ) -> Result<()> {
        let wanted = self.wanted_sockets(sockets, within)?;
        let (_, netlink, events) = self.netlink()?;
        let ends: Vec<_> = old.iter().map(OwnedFd::as_fd).collect();
        for socket in replace_sockets(netlink, events, &wanted, &ends, fence)? {
            self.connections.push(Connection::serve(socket, &self.memory)?);
        }
        Ok(())
    }

    fn offer(&mut self) -> Result<String> {
        let wanted = self.wanted_sockets(1, Duration::from_millis(300))?;
        let (_, netlink, events) = self.netlink()?;
        let taken = replace_sockets(netlink, events, &wanted, &[], || Ok(()))?;
        Ok(format!("sockets {}", taken.len()))
    }

    fn wanted_sockets(&self, sockets: usize, within: Duration) -> Result<Replace> {
        Ok(Replace { index: self.index()?, backend: self.wanted.backend.clone(), sockets, within })
    }

    fn resize(&mut self, size: u64) -> Result<String> {
        self.memory.resize(size)?;
        let backend = self.wanted.backend.clone();
        let (index, netlink, _) = self.netlink()?;
        let change = Reconfigure { backend, size: Some(size), ..Reconfigure::default() };
        netlink.reconfigure(index, &change, &[])?;
        Ok("resized".to_owned())
    }

    fn carry(&mut self) -> Result<String> {
        match std::mem::replace(&mut self.device, Device::Gone) {
            Device::Netlink { index, netlink, events } => {
                let netlink = Netlink::from_fd(netlink.into_fd())?;
                self.device = Device::Netlink { index, netlink, events };
                Ok("carried".to_owned())
            }
            _ => bail!("it is not attached by netlink"),
        }
    }

    fn disconnect(&mut self) -> Result<String> {
        let index = self.index()?;
        match std::mem::replace(&mut self.device, Device::Gone) {
            Device::Netlink { index, mut netlink, .. } => netlink.disconnect(index)?,
            Device::Ioctl(attachment) => attachment.disconnect(SOON)?,
            Device::Gone => bail!("it is detached"),
        }
        Host::here().forget_partitions(index)?;
        Ok("detached".to_owned())
    }
}

/// The other side: says a command to a server, which may have just been started, and shows the answer.
pub(crate) fn tell(path: &str, command: &str) -> Result<()> {
    let deadline = Instant::now() + SOON;
    let mut stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                if Instant::now() >= deadline {
                    return Err(error).context("no server is listening");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    };
    writeln!(stream, "{command}")?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    println!("{told}");
    if told.starts_with("error") { bail!("`{command}` failed") } else { Ok(()) }
}
