//! Work queues of devices: found, opened, measured, and looked after as they come and go.
//!
//! [`Offload`] is the side of this that may block, for opening a queue and measuring it take time: it is
//! used before the shard starts, and by another thread than the shard's afterwards. What it comes to
//! travels to the shard as [`EngineChange`]s. The shard's engine does the rest by itself: what fails is
//! quarantined there, and probed back to life.
//!
//! A queue is used if discovery finds nothing against it, the configuration does not leave it out, and it
//! passes a probe. Of the usable ones the registry of channels picks: the nearest that takes what the
//! volume asks for, one for each kind of operation. A queue that does not open, because another process
//! has it for one, gets another chance at each look.

mod node;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_tx::{
    Backend, Calibration, Caps, ChannelId, ChannelSpec, Channels, DeviceId, DeviceSpec, EngineConfig,
    Monotonic, OpKind, Opener, Policies, Policy, Thresholds, calibrate,
};
use engine_cpu::CpuBackend;
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::discover::{Mode, Paths, Queue, scan};

/// The kinds of operation of the stripe path that a device may do. Parity is not among them: no DSA can.
const WANTED: [OpKind; 2] = [OpKind::Copy, OpKind::Fill];
/// How long one queue is measured when it is opened.
const BUDGET: Duration = Duration::from_millis(100);
/// What the bytes of an operation add to the time it is given, at this rate.
const BYTES_PER_SECOND_MIN: u64 = 100_000_000;

/// Whether work queues are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DsaUse {
    /// Those that are found and usable.
    #[default]
    Auto,
    /// None.
    Off,
    /// At least one, or the volume does not start.
    Require,
}

impl DsaUse {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            DsaUse::Auto => "auto",
            DsaUse::Off => "off",
            DsaUse::Require => "require",
        }
    }
}

/// How devices are used. The default is good for most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffloadConfig {
    /// Whether work queues are used.
    pub dsa: DsaUse,
    /// The only queues that may be used, by name as `wq0.1`; empty for all.
    pub queues: Vec<String>,
    /// Where they are looked for.
    pub paths: Paths,
    /// Every so many operations one is compared with the CPU; 0 is none.
    pub cross_check: u32,
    /// How long an operation may take, beside the time for its bytes.
    pub timeout: Duration,
    /// How long a queue that failed is left alone.
    pub retry: Duration,
    /// From what length on an operation is offloaded.
    pub policies: Policies,
}

impl Default for OffloadConfig {
    fn default() -> Self {
        let engine = EngineConfig::default();
        OffloadConfig {
            dsa: DsaUse::Auto,
            queues: Vec::new(),
            paths: Paths::default(),
            cross_check: engine.cross_check,
            timeout: engine.op_timeout,
            retry: engine.probe_after,
            policies: Policies::default(),
        }
    }
}

impl OffloadConfig {
    /// The same in the engine's words.
    pub fn engine_config(&self) -> EngineConfig {
        let defaults = EngineConfig::default();
        EngineConfig {
            op_timeout: self.timeout,
            bytes_per_second_min: BYTES_PER_SECOND_MIN,
            cross_check: self.cross_check,
            probe_after: self.retry,
            probe_max: defaults.probe_max.max(self.retry),
            ..defaults
        }
    }

    /// The kinds that may be offloaded.
    fn wanted(&self) -> Caps {
        let wanted = WANTED.into_iter().filter(|kind| self.policies.get(*kind) != Policy::Never);
        wanted.fold(Caps::NONE, Caps::with)
    }

    /// Whether a measurement decides about any of them.
    fn measures(&self) -> bool {
        WANTED.into_iter().any(|kind| self.policies.get(kind) == Policy::Auto)
    }
}

/// A queue that is ready to be used.
pub struct NewBackend {
    /// The queue.
    pub backend: Box<dyn Backend>,
    /// From what lengths on it is used.
    pub thresholds: Thresholds,
    /// Whether it is on the shard's memory node.
    pub near: bool,
}

/// What the shard is to change about its engine.
#[derive(Default)]
pub struct EngineChange {
    /// Backends that get nothing any more and are dropped when they have nothing in hand, by name.
    pub remove: Vec<String>,
    /// Backends to add.
    pub add: Vec<NewBackend>,
}

impl EngineChange {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// A queue in use, or one that is not, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueInfo {
    /// Its name, as `wq0.1`.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
}

/// How a queue stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The shard has it, or had it and it is leaving.
    Used {
        /// The name of its backend in the engine.
        backend: String,
        /// How descriptors go in.
        method: &'static str,
        /// From what lengths on it is used, as the engine was told.
        thresholds: Box<Thresholds>,
    },
    /// It is not used, for this reason.
    Unused(String),
}

/// What became of a queue when it was opened.
#[derive(Clone, Debug)]
struct Opening {
    backend: String,
    method: &'static str,
    thresholds: Thresholds,
}

/// Opens a queue that was found at these places, and proves that it works. The text says why not.
pub type OpenQueue = Arc<dyn Fn(&Paths, &Queue) -> Result<DsaBackend, String> + Send + Sync>;

type Openings = Arc<Mutex<BTreeMap<String, Opening>>>;

/// The queues of this machine, as far as they concern one shard.
pub struct Offload {
    config: OffloadConfig,
    open: OpenQueue,
    channels: Channels,
    /// The memory node of this process, if it is bound to one.
    node: Option<u32>,
    /// Every usable queue is a device of its own to the registry, so that it can go alone.
    registered: BTreeMap<String, DeviceId>,
    /// What the shard has: channel, queue.
    held: Vec<(ChannelId, String)>,
    openings: Openings,
    infos: Vec<QueueInfo>,
    /// Why nothing was found, if nothing was.
    note: Option<String>,
}

impl Offload {
    /// Nothing was looked for yet; see [`look`](Self::look).
    pub fn new(config: OffloadConfig) -> Self {
        Self::with_opener(
            config,
            Arc::new(|paths, queue| {
                engine_dsa::open::open(paths, queue, Options::default()).map_err(|error| error.to_string())
            }),
        )
    }

    /// The same with another way to open queues, as for models in this process.
    pub fn with_opener(config: OffloadConfig, open: OpenQueue) -> Self {
        let channels = Channels::new(node::distances(&config.paths.nodes));
        let node = node::own(&config.paths.nodes);
        Offload {
            config,
            open,
            channels,
            node,
            registered: BTreeMap::new(),
            held: Vec::new(),
            openings: Openings::default(),
            infos: Vec::new(),
            note: None,
        }
    }

    /// Whether there is anything to look for.
    pub fn is_on(&self) -> bool {
        self.config.dsa != DsaUse::Off
    }

    /// How it was configured.
    pub fn config(&self) -> &OffloadConfig {
        &self.config
    }

    /// The queues that were found at the last look.
    pub fn queues(&self) -> &[QueueInfo] {
        &self.infos
    }

    /// Why no queue is used, in words, if none is.
    pub fn why_none(&self) -> Option<String> {
        if !self.held.is_empty() {
            return None;
        }
        let unused = self.infos.iter().filter_map(|info| match &info.standing {
            Standing::Unused(why) => Some(format!("{}: {why}", info.name)),
            Standing::Used { .. } => None,
        });
        let unused: Vec<_> = unused.collect();
        match (&self.note, unused.is_empty()) {
            _ if !self.is_on() => Some("it is switched off".to_owned()),
            (Some(note), true) => Some(note.clone()),
            (None, true) => Some("no work queue is configured".to_owned()),
            (_, false) => Some(unused.join("; ")),
        }
    }

    /// Looks what has changed since the last look: says what the shard is to do, and logs what is new. It
    /// opens and measures queues, which takes its time.
    pub fn look(&mut self) -> EngineChange {
        if !self.is_on() {
            return EngineChange::default();
        }
        let snapshot = scan(&self.config.paths);
        self.note = snapshot.notes.first().cloned();
        let queues: Vec<&Queue> = snapshot.queues().collect();
        self.register(&queues);
        self.channels.forgive();
        let mut change = EngineChange::default();
        // Whatever does not open leaves its place to the next one; each is tried once.
        for _ in 0..=self.registered.len() {
            let ids: Vec<ChannelId> = self.held.iter().map(|(id, _)| *id).collect();
            let (drop, leases) = self.channels.rebalance(self.config.wanted(), self.node, &ids);
            change.remove.extend(self.give_up(&drop));
            if leases.is_empty() {
                break;
            }
            for lease in leases {
                let (id, near) = (lease.id(), lease.is_near());
                let queue = lease.info().name.to_string();
                if let Ok(backend) = lease.open() {
                    let thresholds = self.opening(&queue).map_or(Thresholds::NEVER, |o| o.thresholds);
                    self.held.push((id, queue));
                    change.add.push(NewBackend { backend, thresholds, near });
                }
            }
        }
        let mut infos: Vec<_> = queues.iter().map(|queue| self.info(queue)).collect();
        let missing =
            self.config.queues.iter().filter(|name| queues.iter().all(|queue| queue.name != **name));
        infos.extend(missing.map(|name| QueueInfo {
            name: name.clone(),
            standing: Standing::Unused(
                "there is no such work queue, but the configuration names it".to_owned(),
            ),
        }));
        self.tell(infos);
        change
    }

    /// Tells the registry which usable queues came and went.
    fn register(&mut self, queues: &[&Queue]) {
        let usable = |queue: &&&Queue| self.reason_against(queue).is_none();
        let now: BTreeMap<&str, &Queue> =
            queues.iter().filter(usable).map(|queue| (queue.name.as_str(), *queue)).collect();
        let gone: Vec<String> =
            self.registered.keys().filter(|name| !now.contains_key(name.as_str())).cloned().collect();
        for name in gone {
            if let Some(device) = self.registered.remove(&name) {
                self.channels.unregister(device);
            }
        }
        for (name, queue) in now {
            if self.registered.contains_key(name) {
                continue;
            }
            let channel = ChannelSpec {
                name: name.to_owned(),
                caps: WANTED.into_iter().filter(|kind| can(queue, *kind)).fold(Caps::NONE, Caps::with),
                dedicated: queue.mode == Some(Mode::Dedicated),
                opener: self.opener(queue),
            };
            let device = DeviceSpec {
                name: name.to_owned(),
                node: queue.numa_node,
                private: false,
                channels: vec![channel],
            };
            // The name is not taken: one that leaves does not count, and each is registered once.
            if let Ok(id) = self.channels.register(device) {
                self.registered.insert(name.to_owned(), id);
            }
        }
    }

    /// Why a queue is not to be opened.
    fn reason_against(&self, queue: &Queue) -> Option<String> {
        let (only, name) = (&self.config.queues, &queue.name);
        if !only.is_empty() && !only.contains(name) {
            return Some("it is not among the queues of the configuration".to_owned());
        }
        let obstacles: Vec<String> = queue.obstacles.iter().map(ToString::to_string).collect();
        (!obstacles.is_empty()).then(|| obstacles.join("; "))
    }

    /// What opens, proves and measures a queue.
    fn opener(&self, queue: &Queue) -> Opener {
        let (config, queue) = (self.config.clone(), queue.clone());
        let (open, openings) = (Arc::clone(&self.open), Arc::clone(&self.openings));
        Arc::new(move || {
            lock(&openings).remove(&queue.name);
            let (backend, opening) = open_and_measure(&open, &config, &queue)?;
            lock(&openings).insert(queue.name.clone(), opening);
            Ok(Box::new(backend))
        })
    }

    fn opening(&self, queue: &str) -> Option<Opening> {
        lock(&self.openings).get(queue).cloned()
    }

    /// Takes channels off the list of those that the shard has; the names of their backends.
    fn give_up(&mut self, channels: &[ChannelId]) -> Vec<String> {
        let mut names = Vec::new();
        self.held.retain(|(id, queue)| {
            let drop = channels.contains(id);
            if drop {
                names.extend(lock(&self.openings).remove(queue).map(|opening| opening.backend));
            }
            !drop
        });
        names
    }

    fn info(&self, queue: &Queue) -> QueueInfo {
        let held = self.held.iter().any(|(_, name)| *name == queue.name);
        let opening = self.opening(&queue.name).filter(|_| held);
        let standing = match (opening, self.reason_against(queue)) {
            (Some(Opening { backend, method, thresholds }), _) => {
                Standing::Used { backend, method, thresholds: Box::new(thresholds) }
            }
            (None, Some(why)) => Standing::Unused(why),
            (None, None) => Standing::Unused(self.why_not_chosen(&queue.name)),
        };
        QueueInfo { name: queue.name.clone(), standing }
    }

    /// Why a queue without obstacles is not used.
    fn why_not_chosen(&self, queue: &str) -> String {
        if self.config.wanted() == Caps::NONE {
            return "the configuration offloads neither copies nor fills".to_owned();
        }
        let channels = self.channels.list();
        let found = channels.iter().find(|channel| &*channel.name == queue && !channel.leaving);
        match found.and_then(|channel| channel.broken.as_deref()) {
            Some(why) => why.to_owned(),
            None => "others are nearer or less used".to_owned(),
        }
    }

    /// Keeps what was found, and logs what is new about it.
    fn tell(&mut self, infos: Vec<QueueInfo>) {
        for info in infos.iter().filter(|info| !self.infos.contains(info)) {
            match &info.standing {
                Standing::Used { method, thresholds, .. } => {
                    let offloads = describe(thresholds);
                    tracing::info!("DSA work queue {} is used (by {method}): {offloads}", info.name);
                }
                Standing::Unused(why) => {
                    tracing::info!("DSA work queue {} is not used: {why}", info.name);
                }
            }
        }
        let known = |name: &str| infos.iter().any(|info| info.name == name);
        for info in self.infos.iter().filter(|info| !known(&info.name)) {
            tracing::info!("DSA work queue {} is gone", info.name);
        }
        self.infos = infos;
    }
}

fn lock(openings: &Openings) -> MutexGuard<'_, BTreeMap<String, Opening>> {
    // A map of finished entries is sound whatever happened to who held it.
    openings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a queue does this kind of operation.
fn can(queue: &Queue, kind: OpKind) -> bool {
    use engine_dsa::wire::Opcode;
    let opcode = match kind {
        OpKind::Copy => Opcode::Memmove,
        OpKind::Fill => Opcode::Fill,
        OpKind::Compare => Opcode::Compare,
        OpKind::Dualcast => Opcode::Dualcast,
        OpKind::Crc32c => Opcode::CrcGen,
        OpKind::CopyCrc32c => Opcode::CopyCrc,
        _ => return false,
    };
    queue.ops.contains(opcode)
}

fn open_and_measure(
    open: &OpenQueue,
    config: &OffloadConfig,
    queue: &Queue,
) -> Result<(DsaBackend, Opening), String> {
    let mut backend = open(&config.paths, queue)?;
    let measured = match config.measures() {
        true => {
            let found = measure(&mut backend, BUDGET)?;
            tracing::debug!("measuring {} was {}, in {:?}", queue.name, found.outcome, found.took);
            decided(&found)
        }
        false => Thresholds::default(),
    };
    let opening = Opening {
        backend: backend.name().to_owned(),
        method: backend.queue().method(),
        thresholds: config.policies.apply(&measured),
    };
    Ok((backend, opening))
}

/// Measures a queue against this machine's CPU.
///
/// # Errors
/// In words: it failed meanwhile, and must not be used.
pub fn measure(backend: &mut DsaBackend, budget: Duration) -> Result<Calibration, String> {
    let found = calibrate(backend, &mut CpuBackend::auto(), &Monotonic::new(), budget);
    if found.outcome.is_good() {
        Ok(found)
    } else {
        Err(format!("it failed when it was measured: {}", found.outcome))
    }
}

/// The thresholds of a measurement. Of what was not measured nobody knows that it pays.
pub fn decided(found: &Calibration) -> Thresholds {
    OpKind::ALL.into_iter().fold(found.thresholds, |thresholds, kind| match thresholds.get(kind) {
        Some(_) => thresholds,
        None => thresholds.with(kind, Thresholds::OFF),
    })
}

/// `copy from 65536 bytes on, fill never`
fn describe(thresholds: &Thresholds) -> String {
    let words = WANTED.into_iter().map(|kind| match thresholds.get(kind) {
        Some(Thresholds::OFF) => format!("{} never", kind.word()),
        Some(bytes) => format!("{} from {bytes} bytes on", kind.word()),
        None => format!("{} from the device's default on", kind.word()),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Where devices are looked for: the usual places, but for what is given here, but for what the
/// environment says.
pub fn paths(sysfs: Option<PathBuf>, dev: Option<PathBuf>) -> Paths {
    let (usual, mut paths) = (Paths::default(), Paths::from_env());
    if let Some(sysfs) = sysfs.filter(|_| paths.sysfs == usual.sysfs) {
        paths.sysfs = sysfs;
    }
    if let Some(dev) = dev.filter(|_| paths.dev == usual.dev) {
        paths.dev = dev;
    }
    paths
}
