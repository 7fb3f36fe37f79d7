//! Who uses which queue of which device: the registry that all shards share.
//!
//! A device has channels (work queues), each with its capabilities. There are two ways to one:
//!
//! - **Public**: [`Channels::attach`] gives a shard, for each capability that it wants, the channel with
//!   the fewest users on the nearest NUMA node. A shared queue has any number of public users, a dedicated
//!   one has one at a time.
//! - **Exclusive**: [`Channels::request_channel`] gives a channel that nobody else uses until the
//!   [`Lease`] is released. It has to be free: no public user holds it either. Devices registered as
//!   private are given out in this way only.
//!
//! The original API has two caveats. Both are improved on: a channel that was exclusive goes back to the
//! public pool when its lease is released, where there it stayed private; and to take one channel of a
//! device leaves the others of the same device public, where there a device was all public or all private.
//! Only a device registered as private is private as a whole, and stays so.
//!
//! Hot-plug changes [`Channels::generation`]. A shard that sees it at an idle turn calls
//! [`Channels::rebalance`], retires the backends of the channels to drop, and opens the new ones. A device
//! that is unregistered is given to nobody any more, and is gone when the last lease on it was dropped.
//!
//! What it leaves to others: finding devices, the NUMA topology, and opening queues. Its lock is held for
//! no call into anyone else's code.

mod lease;
mod plan;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

pub use self::lease::{Lease, OpenError};
pub use self::plan::{ChannelPlan, plan_channels};
use crate::backend::{Backend, Caps};

/// Opens a channel's queue. The text says what failed, where, and what to do about it.
pub type Opener = Arc<dyn Fn() -> Result<Box<dyn Backend>, String> + Send + Sync>;

/// A channel to register.
#[derive(Clone)]
pub struct ChannelSpec {
    /// Its name, unique in its device, such as `wq0.1`.
    pub name: String,
    /// The kinds of operation that it takes.
    pub caps: Caps,
    /// It has one user at a time.
    pub dedicated: bool,
    /// Opens it.
    pub opener: Opener,
}

impl fmt::Debug for ChannelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChannelSpec { name, caps, dedicated, opener: _ } = self;
        f.debug_struct("ChannelSpec")
            .field("name", name)
            .field("caps", caps)
            .field("dedicated", dedicated)
            .finish_non_exhaustive()
    }
}

/// A device to register.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// Its name, unique among the devices present, such as `dsa0`.
    pub name: String,
    /// Its NUMA node, if it is on one that is known.
    pub node: Option<u32>,
    /// Its channels are never given out by [`Channels::attach`].
    pub private: bool,
    /// Its channels.
    pub channels: Vec<ChannelSpec>,
}

/// Names a device for as long as the registry lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(u64);

/// Names a channel for as long as the registry lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelId(u64);

/// Who holds a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Usage {
    /// So many users of [`Channels::attach`]; with none it is free.
    Public(usize),
    /// One user of [`Channels::request_channel`].
    Exclusive,
}

/// What is known of a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelInfo {
    /// The channel.
    pub id: ChannelId,
    /// Its device.
    pub device_id: DeviceId,
    /// Name of the device.
    pub device: Arc<str>,
    /// Name of the channel in its device.
    pub name: Arc<str>,
    /// NUMA node of the device, if known.
    pub node: Option<u32>,
    /// The kinds of operation that it takes.
    pub caps: Caps,
    /// It has one user at a time.
    pub dedicated: bool,
    /// The device was registered as private.
    pub private: bool,
    /// Who holds it.
    pub usage: Usage,
    /// The device was unregistered; the channel goes when its users release it.
    pub leaving: bool,
    /// Why the last attempt to open it failed. It is given to nobody until [`Channels::forgive`].
    pub broken: Option<Arc<str>>,
}

impl ChannelInfo {
    /// Whether it can be taken exclusively.
    pub fn is_free(&self) -> bool {
        self.usage == Usage::Public(0) && !self.leaving && self.broken.is_none()
    }
}

/// Why a device was not registered; the registry is as it was.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// A device of this name is there.
    #[error("a device {device} is registered already")]
    Device {
        /// The name.
        device: String,
    },
    /// Two channels of the device have this name.
    #[error("device {device} has two channels named {channel}")]
    Channel {
        /// The device's name.
        device: String,
        /// The channel's name.
        channel: String,
    },
}

/// How far NUMA nodes are from each other, in the unit of ACPI's SLIT: 10 is local.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Distances(Vec<Vec<u32>>);

impl Distances {
    /// The distance of a node to itself.
    pub const LOCAL: u32 = 10;
    /// The distance of two nodes of which nothing else is said.
    pub const REMOTE: u32 = 20;

    /// Row `a`, entry `b` is the distance from node `a` to node `b`, as in the files
    /// `/sys/devices/system/node/node*/distance`. Missing entries are [`Distances::LOCAL`] on the diagonal
    /// and [`Distances::REMOTE`] elsewhere.
    pub const fn new(rows: Vec<Vec<u32>>) -> Self {
        Distances(rows)
    }

    /// From one to the other. A node that is not known counts as local: nothing is said against it.
    pub fn between(&self, from: Option<u32>, to: Option<u32>) -> u32 {
        let (Some(from), Some(to)) = (from, to) else { return Distances::LOCAL };
        let entry = |a: u32, b: u32| self.0.get(usize::try_from(a).ok()?)?.get(usize::try_from(b).ok()?);
        let unsaid = if from == to { Distances::LOCAL } else { Distances::REMOTE };
        entry(from, to).copied().unwrap_or(unsaid)
    }
}

/// A channel, and how to open it.
struct Entry {
    info: ChannelInfo,
    opener: Opener,
}

#[derive(Default)]
struct State {
    /// In the order of their registration, and so of their ids.
    entries: Vec<Entry>,
    next_id: u64,
}

impl State {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn entry(&mut self, id: ChannelId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.info.id == id)
    }

    fn list(&self) -> Vec<ChannelInfo> {
        self.entries.iter().map(|entry| entry.info.clone()).collect()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    distances: Distances,
    generation: AtomicU64,
}

impl Shared {
    /// Takes back what a lease on this channel was for.
    fn release(&self, id: ChannelId) {
        let mut state = self.lock();
        let Some(at) = state.entries.iter().position(|entry| entry.info.id == id) else { return };
        let info = &mut state.entries[at].info;
        let users = match info.usage {
            Usage::Public(users) => users.saturating_sub(1),
            Usage::Exclusive => 0,
        };
        // Who shares a queue keeps it when another leaves, so that is no reason to look again.
        let wakes = info.usage == Usage::Exclusive || info.dedicated;
        info.usage = Usage::Public(users);
        if info.leaving && users == 0 {
            state.entries.remove(at);
        }
        if wakes {
            self.changed();
        }
    }

    /// Marks a channel as broken.
    fn broke(&self, id: ChannelId, why: Arc<str>) {
        if let Some(entry) = self.lock().entry(id) {
            entry.info.broken = Some(why);
        }
    }

    /// No panic can leave the state half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// The registry: a handle to what all its clones share.
#[derive(Clone, Default)]
pub struct Channels(Arc<Shared>);

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channels").field(&self.list()).finish()
    }
}

impl Channels {
    /// An empty registry on a machine with these distances between its NUMA nodes.
    pub fn new(distances: Distances) -> Self {
        Channels(Arc::new(Shared { distances, ..Shared::default() }))
    }

    /// Adds a device and its channels.
    ///
    /// Errors: the name of the device is taken by one that is there, not leaving; two of its channels
    /// have the same name.
    pub fn register(&self, device: DeviceSpec) -> Result<DeviceId, RegisterError> {
        let mut names = HashSet::new();
        if let Some(twice) = device.channels.iter().find(|channel| !names.insert(channel.name.as_str())) {
            return Err(RegisterError::Channel { device: device.name, channel: twice.name.clone() });
        }
        let name: Arc<str> = device.name.as_str().into();
        let mut state = self.0.lock();
        if state.entries.iter().any(|entry| !entry.info.leaving && entry.info.device == name) {
            return Err(RegisterError::Device { device: device.name });
        }
        let device_id = DeviceId(state.id());
        for channel in device.channels {
            let info = ChannelInfo {
                id: ChannelId(state.id()),
                device_id,
                device: name.clone(),
                name: channel.name.into(),
                node: device.node,
                caps: channel.caps,
                dedicated: channel.dedicated,
                private: device.private,
                usage: Usage::Public(0),
                leaving: false,
                broken: None,
            };
            state.entries.push(Entry { info, opener: channel.opener });
        }
        self.0.changed();
        Ok(device_id)
    }

    /// Removes a device. Nobody gets its channels any more; those in use go when their leases are
    /// dropped, which the shards do at their next rebalance. Returns how many leases that are.
    pub fn unregister(&self, device: DeviceId) -> usize {
        let mut leases = 0;
        self.0.lock().entries.retain_mut(|entry| {
            if entry.info.device_id != device {
                return true;
            }
            entry.info.leaving = true;
            let users = match entry.info.usage {
                Usage::Public(users) => users,
                Usage::Exclusive => 1,
            };
            leases += users;
            users > 0
        });
        self.0.changed();
        leases
    }

    /// Changes whenever a rebalance may find something: a device came or went, a channel was taken
    /// exclusively or released from that, a dedicated channel became free, broken ones were forgiven.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// All channels, in the order of their registration.
    pub fn list(&self) -> Vec<ChannelInfo> {
        self.0.lock().list()
    }

    /// Gives all channels that did not open another chance.
    pub fn forgive(&self) {
        for entry in &mut self.0.lock().entries {
            entry.info.broken = None;
        }
        self.0.changed();
    }

    /// Channels for a shard on `node` that has none and wants `caps`. See [`plan_channels`] for which; a kind
    /// that no channel takes, or none that is left, gets none.
    pub fn attach(&self, caps: Caps, node: Option<u32>) -> Vec<Lease> {
        self.rebalance(caps, node, &[]).1
    }

    /// What a shard on `node` that wants `caps` and holds the public leases `held` should drop, and the
    /// leases that it gets in their place. What it should drop is its to retire, drain and drop.
    pub fn rebalance(
        &self,
        caps: Caps,
        node: Option<u32>,
        held: &[ChannelId],
    ) -> (Vec<ChannelId>, Vec<Lease>) {
        let mut state = self.0.lock();
        let ChannelPlan { drop, attach } = plan_channels(&state.list(), &self.0.distances, caps, node, held);
        let leases = attach.into_iter().filter_map(|id| {
            let entry = state.entry(id)?;
            let Usage::Public(users) = &mut entry.info.usage else { return None };
            *users += 1;
            let near = self.0.distances.between(node, entry.info.node) <= Distances::LOCAL;
            Some(self.lease(entry, near))
        });
        let leases = leases.collect();
        (drop, leases)
    }

    /// A free channel that takes all of `caps` and that `filter` accepts, for the caller alone until the
    /// lease is released. Those of private devices come first, to leave the public ones to the public,
    /// then in the order of registration.
    ///
    /// `filter` is called once for each free channel with the capabilities until it accepts one, with no
    /// lock held; if somebody else takes the one that it accepts at the same moment, it is asked about the
    /// rest.
    pub fn request_channel(&self, caps: Caps, mut filter: impl FnMut(&ChannelInfo) -> bool) -> Option<Lease> {
        let mut channels = self.list();
        channels.retain(|channel| channel.is_free() && channel.caps.covers(caps));
        channels.sort_by_key(|channel| !channel.private);
        channels.into_iter().find_map(|channel| if filter(&channel) { self.take(channel.id) } else { None })
    }

    /// Takes a channel exclusively, if it is free still.
    fn take(&self, id: ChannelId) -> Option<Lease> {
        let mut state = self.0.lock();
        let entry = state.entry(id).filter(|entry| entry.info.is_free())?;
        entry.info.usage = Usage::Exclusive;
        let lease = self.lease(entry, true);
        self.0.changed();
        Some(lease)
    }

    fn lease(&self, entry: &Entry, near: bool) -> Lease {
        Lease::new(self.0.clone(), entry.info.clone(), entry.opener.clone(), near)
    }
}
