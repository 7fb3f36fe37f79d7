//! The volume as a block device of this machine: one thread that attaches it, keeps it attached and lets it
//! go. It may block for as long as requests take, so it is nobody else's thread.
//!
//! The shard serves the sockets. Here is who gives them to the kernel, and when:
//!
//! | at the start | what is done |
//! |---|---|
//! | an earlier process handed its connections over | nothing: the kernel has noticed nothing |
//! | an earlier process died (the kernel shows a device with our name) | new sockets by `RECONFIGURE` |
//! | neither | new sockets by `CONNECT` |
//!
//! While the volume is served, a connection that the kernel has given up on is replaced. Nothing has to be
//! waited for then: the shard begins nothing of such a connection any more, and what it has begun the array
//! carries out before whatever overlaps it and comes later.

mod attach;
mod keeper;
mod own;

use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nbd_rs::{ExportInfo, Session};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;
use uraid_attach::{Connect, DeviceChoice, QueueLimits, block_size_for};
use uraid_config::{Config, DeviceName};
use uraid_core::Geometry;
use uraid_shard::ShardHandle;

use self::keeper::{Keeper, Order};
use super::handover::DeviceRecord;

pub(super) use own::refuse_members_on_own_device;

/// What a device is to be like.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    connect: Connect,
    limits: QueueLimits,
    sockets: usize,
    read_only: bool,
    session: Session,
}

/// What an earlier process left of the device.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Its connections were handed over.
    pub(super) record: Option<DeviceRecord>,
    /// The socket through which it was attached.
    pub(super) netlink: Option<std::os::fd::OwnedFd>,
    /// Its connections, which the shard has, too: the kernel may have given up on them while nobody served.
    pub(super) sockets: Vec<std::os::fd::OwnedFd>,
}

/// The attached device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attached {
    /// N of /dev/nbdN.
    pub(crate) index: u32,
    /// Its node.
    pub(crate) node: PathBuf,
}

/// Why it was not let go of.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum DetachError {
    /// Somebody uses it; who, in words.
    #[error("{0}")]
    Held(String),
    /// It was tried.
    #[error("{0}")]
    Failed(String),
}

/// A handle on the thread. Dropping it ends the thread and leaves the device attached.
#[derive(Clone)]
pub(crate) struct Device {
    orders: Sender<Order>,
    bell: Arc<EventFd>,
    now: Arc<Mutex<Option<Attached>>>,
}

/// The name with which devices of a volume are attached.
pub(crate) fn backend(name: &str) -> String {
    format!("uraid:{name}")
}

impl Wanted {
    /// What the configuration asks for; none if it asks for no device.
    ///
    /// # Errors
    /// The kernel takes no device with blocks of this size.
    pub(super) fn of(
        config: &Config,
        left: &Left,
        export: &ExportInfo,
        geometry: &Geometry,
    ) -> Result<Option<Self>, String> {
        let device = match (config.device, &left.record) {
            (Some(DeviceName::Auto), _) => DeviceChoice::Auto,
            (Some(DeviceName::Nbd(index)), _) => DeviceChoice::Index(index),
            // It is in use, whatever the configuration says by now.
            (None, Some(record)) => DeviceChoice::Index(record.index),
            (None, None) => return Ok(None),
        };
        let block_size = block_size_for(export.block_sizes().minimum()).map_err(|error| error.to_string())?;
        let features = export.features();
        let session = Session::new(export, &nbd_rs::Negotiated::default());
        let mut connect = Connect::new(export.size(), block_size);
        connect.device = device;
        connect.server_flags = session.transmission_flags();
        connect.timeout = config.attach.timeout;
        connect.dead_conn_timeout = config.attach.dead_conn_timeout;
        connect.backend = Some(backend(export.name()));
        let stripe_bytes = geometry.chunk_bytes().saturating_mul(geometry.data().into());
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Some(Wanted {
            connect,
            limits: QueueLimits { stripe_bytes, rotational: features.rotational },
            sockets: config.attach.sockets(processors),
            read_only: config.read_only,
            session,
        }))
    }
}

impl Device {
    /// Starts the thread. `ready` gets the device when it has answered a read, or why there is none.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        wanted: Wanted,
        left: Left,
        shard: ShardHandle,
        ready: oneshot::Sender<Result<Attached, String>>,
    ) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let now = Arc::new(Mutex::new(None));
        let keeper = Keeper::new(wanted, shard, inbox, Arc::clone(&bell), Arc::clone(&now));
        std::thread::Builder::new().name("uraid device".to_owned()).spawn(move || keeper.run(left, ready))?;
        Ok(Device { orders, bell, now })
    }

    /// The device as it is attached now; none before it is and after it was let go of.
    pub(crate) fn attached(&self) -> Option<Attached> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes out what the kernel holds for it and detaches it, unless somebody uses it.
    ///
    /// # Errors
    /// See [`DetachError`].
    pub(crate) async fn detach(&self, force: bool) -> Result<(), DetachError> {
        let (tell, told) = oneshot::channel();
        self.order(Order::Detach { force, tell });
        told.await.unwrap_or_else(|_| match self.attached() {
            // It could not be attached, or somebody else has detached it.
            None => Ok(()),
            Some(_) => Err(DetachError::Failed("the device's thread has ended".to_owned())),
        })
    }

    /// Lets go of everything but the device, for a successor.
    pub(super) async fn let_go(&self) -> Left {
        let (tell, told) = oneshot::channel();
        self.order(Order::LetGo { tell });
        told.await.unwrap_or_default()
    }

    fn order(&self, order: Order) {
        // A thread that has ended drops the order, and whoever asked hears that.
        let _ = self.orders.send(order);
        let _ = self.bell.write(1);
    }
}

/// How long it may take until the device answers a read.
const FIRST_READ: Duration = Duration::from_secs(60);
