//! `uraid serve`: the daemon.
//!
//! ```text
//!   members ──> assembly ──> shard (its own thread) <── sockets after their handshake ── door <── clients
//!                              ^                                                          │
//!                              └── status, fail, add, stop ── operator <── control socket ┘ tokio
//! ```
//!
//! `members` opens what [`crate::assembly`] accepted, `listen` binds the sockets, `door` and
//! `handshake` lead clients to the shard, `operator` and `picture` answer on the control socket,
//! `newcomer` prepares a device that is added, `engines` looks for work queues that come and go, `manager`
//! talks to systemd. Here is the order of things: nothing is written to a member before every
//! socket is bound, and nothing is let go of before the array is marked clean.

mod descriptors;
mod device;
mod door;
mod engines;
mod export;
mod handover;
mod handshake;
mod life;
mod listen;
mod live;
mod lobby;
mod manager;
mod members;
mod newcomer;
mod operator;
mod peers;
mod picture;
mod recent;
mod reload;
mod scrub;
mod tls;
mod tuning;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use md_format::{Assembly, Superblock};
use nbd_rs::{Contexts, ExportInfo, Headers};
use nix::sys::mman::{MlockAllFlags, mlockall};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use uraid_blockio::set_io_flusher;
use uraid_config::{Address, Config, EventKind, TlsAt};
use uraid_core::SyncKind;
use uraid_shard::{
    ConnectionKind, EngineError, NewConnection, Offload, Shard, ShardConfig, ShardExit, ShardHandle, engine,
};

use self::device::{Device, Left, Wanted, backend, refuse_members_on_own_device};
use self::door::Door;
use self::engines::{EngineFacts, Queues, offload_config};
use self::export::MemberTraits;
use self::handover::{ArrayFacts, Inheritance};
use self::life::{Cause, HandOver, Watch};
use self::listen::{Kept, Listener, Sockets};
use self::live::{Live, Settings};
use self::members::Claims;
use self::operator::{Ending, Operator};
use self::peers::{Peer, Peers};
use self::picture::Facts;
use self::recent::Recent;
use self::reload::Reloader;
use self::tls::TlsThreads;
use crate::assembly;
use crate::control::server;
use crate::events::{Event, Events, Hook, Telling};
use crate::failure::Failure;
use crate::service_stop::is_found;
use crate::{human, metrics, out};

/// The time to finish what is in flight and mark the array clean.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How much longer the shard may take to say that its time is up.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// The time for the shard to say how things are before it is told to stop.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// How long after a signal another one counts as the same: a service manager or `timeout` tells a program
/// and then its process group, which the program is in.
const SIGNAL_ECHO: Duration = Duration::from_secs(2);
/// The time for clients to end their handshake before a hand-over.
const LAST_HANDSHAKES: Duration = Duration::from_secs(2);
/// The time for operators to take their last answers.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The time to tell the last events, to the hook above all.
const LAST_EVENTS: Duration = Duration::from_secs(10);
/// The same when another process waits to go on.
const LAST_EVENTS_OF_ALL: Duration = Duration::from_millis(200);

/// Serves the volume until it is told to stop. `file` is where the configuration is from, to be read again;
/// none if that is the command line.
///
/// # Errors
/// The array cannot be put together, an address cannot be bound, or it did not stop cleanly.
pub fn run(config: Config, file: Option<PathBuf>) -> Result<(), Failure> {
    // First of all: nothing else is to be taken for what was left, and threads inherit the rest.
    let mut left = Inheritance::take();
    // A hangup ends a program that does not catch it, and to the service manager that would be a good end. One
    // that comes before the array is served is obeyed when it is.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::operating(format!("cannot start: {error}")))?;
    let hangups = {
        let _within = runtime.enter();
        signal(SignalKind::hangup()).map_err(Failure::operating)?
    };
    // The hook's thread first of all: what is declared here is inherited, and not meant for it.
    let hook = Hook::prepare(&config.events)
        .map_err(|error| Failure::operating(format!("the hook's thread cannot be started: {error}")))?;
    declare_io_flusher();
    let is_handed_over = |superblock: &Superblock| {
        left.is_of(&superblock.set_uuid().to_string(), &superblock.short_name(), superblock.events())
    };
    // Who names devices on a command line sees at once that one is not there.
    let patience = if file.is_some() { assembly::LATE_MEMBERS } else { Duration::ZERO };
    let (assembly, devices) = assembly::open_or_go_on(&config, patience, is_handed_over)?.into_parts();
    let own = backend(&assembly.superblock.short_name());
    refuse_members_on_own_device(config.members.iter().map(PathBuf::as_path), &own)
        .map_err(Failure::operating)?;
    let options = members::options(&config);
    let (members, claims) = members::open_all(&assembly, devices, options)?;
    for member in &members {
        tracing::info!("{}", members::describe(member.path(), member));
    }
    let name = assembly.superblock.short_name();
    if let Some(file) = file.as_deref().filter(|file| !is_found(file, &config, &assembly.superblock.name())) {
        tracing::warn!(
            "the array is named {name} and its configuration {}: a restart of the service will not find this \
             daemon, and is a stop; name the file {name}.toml, or say `name = {name:?}` in it",
            file.display()
        );
    }
    let (engine, offload) = make_engine(&config)?;
    let settings = Settings::of(&config).map_err(Failure::operating)?;
    let sockets = Sockets::bind(&config, &assembly.superblock.name(), &mut left)?;
    let kept = sockets.kept();
    descriptors::raise_limit(&config, sockets.exports.len());
    let metrics = config.metrics.listen.as_ref().map(metrics::Endpoint::bind).transpose()?;
    let facts = facts(&config, &assembly, &sockets);
    facts.engines.queues.set(offload.queues());
    let (events, telling) = Events::new(facts.subject(), hook);
    let listener = Some(events.listener());
    let plan = Plan {
        traits: MemberTraits::of(&members),
        claims,
        options,
        facts,
        offload,
        settings,
        file,
        left,
        kept,
        events,
        telling,
        metrics,
        hangups,
    };
    let shard = ShardConfig {
        name,
        assembly,
        members,
        read_only: config.read_only,
        engine,
        tuning: tuning::tuning(&config),
        listener,
    };
    let served = runtime.block_on(serve(&config, plan, shard, sockets));
    // A probe of a device that is being added may hang with the device; the end must not.
    runtime.shutdown_background();
    served
}

/// What is settled before the shard starts, other than what the shard itself is made of.
struct Plan {
    traits: MemberTraits,
    claims: Claims,
    options: uraid_blockio::OpenOptions,
    facts: Facts,
    offload: Offload,
    settings: Settings,
    file: Option<PathBuf>,
    /// By a process before this one.
    left: Inheritance,
    /// For a process after it.
    kept: Vec<Kept>,
    events: Events,
    telling: Telling,
    metrics: Option<metrics::Endpoint>,
    /// Each asks for the configuration to be read again.
    hangups: Signal,
}

/// What is wrong or doubtful about the files and accounts that a configuration names, on this machine.
pub(crate) fn file_notes(config: &Config) -> Vec<String> {
    let mut notes = match Settings::of(config) {
        Ok(settings) => settings.doubts().to_vec(),
        Err(why) => vec![why],
    };
    notes.extend(listen::socket_group(&config.access).err().map(|why| why.to_string()));
    notes.extend(config.events.hook.as_deref().and_then(hook_doubt));
    notes
}

/// Why a hook cannot be run, as far as one can see without running it.
fn hook_doubt(program: &Path) -> Option<String> {
    let runs = match std::fs::metadata(program) {
        Ok(found) if found.is_dir() => Err("it is a directory".to_owned()),
        Ok(_) => nix::unistd::access(program, nix::unistd::AccessFlags::X_OK).map_err(|why| why.to_string()),
        Err(why) => Err(why.to_string()),
    };
    runs.err().map(|why| format!("`hook` in [events]: {} cannot be run: {why}", program.display()))
}

/// Whether the files and accounts that a configuration names can be used on this machine.
///
/// # Errors
/// The first that cannot.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    Settings::of(config).map_err(Failure::operating)?;
    listen::socket_group(&config.access).map(|_| ())
}

fn make_engine(config: &Config) -> Result<(async_tx::Engine, Offload), Failure> {
    let word = config.kernel.word();
    engine(word, Offload::new(offload_config(config))).map_err(|error| match error {
        EngineError::Kernels(error) => Failure::operating(format!("`kernel = {word:?}`: {error}")),
        error @ EngineError::NoQueue { .. } => {
            Failure::operating(format!("`dsa = \"require\"` in [engines]: {error}"))
        }
    })
}

fn facts(config: &Config, assembly: &Assembly, sockets: &Sockets) -> Facts {
    let name = assembly.superblock.short_name();
    let uri = |address: &Address| match config.tls.at(address) {
        TlsAt::Required => address.tls_uri(&name),
        TlsAt::Off | TlsAt::Offered => address.uri(&name),
    };
    let exports = sockets.exports.iter().map(|(address, _)| uri(address)).collect();
    let engines = EngineFacts { config: offload_config(config), queues: Queues::default() };
    Facts { name, superblock: assembly.superblock.clone(), read_only: config.read_only, exports, engines }
}

/// Starts the shard, lets clients in, and sees to a good end.
async fn serve(config: &Config, plan: Plan, shard: ShardConfig, sockets: Sockets) -> Result<(), Failure> {
    // Before the array starts, so that no signal can end the program between two superblocks.
    let mut signals = Signals::new().map_err(Failure::operating)?;
    let (events, teller) = (plan.events, plan.telling.start());
    let (tell_exit, mut exit) = oneshot::channel();
    let on_exit = move |exit| {
        let _ = tell_exit.send(exit);
    };
    let shard = Shard::spawn(shard, on_exit).map_err(Failure::operating)?;
    if config.cache.lock_memory {
        lock_the_rest();
    }
    let facts = plan.facts.clone();
    let (idle, peers) = (plan.settings.idle, Peers::default());
    let export = export::info(&facts.name, shard.geometry(), plan.traits, config.read_only);
    let begun = export.map_err(|error| error.to_string()).and_then(|export| {
        let going_on = go_on(config, &facts, plan.left, idle, &peers, &shard, &export)?;
        Ok((export, going_on))
    });
    let (export, (device, ready)) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            // The array runs by now, and is not to be left in the middle of something.
            if let Err(unclean) = stop(&shard, exit, &mut signals).await {
                tracing::error!("{}: {unclean}", facts.name);
            }
            return Err(Failure::operating(why));
        }
    };
    let addresses: Vec<Address> = sockets.exports.iter().map(|(address, _)| address.clone()).collect();
    plan.settings.warn(&addresses);
    let live = Live::new(plan.settings);
    let tls = Arc::new(TlsThreads::new());
    let reloader = Reloader::new(plan.file, config.clone(), live.clone(), addresses.clone());
    let (close, closing) = watch::channel(false);
    let door = Door::new(shard.clone(), export.clone(), live, peers, Arc::clone(&tls), closing);
    let mut doors = open_doors(sockets.exports, &door);
    let (control_listener, control_file) = sockets.control;

    let claims = Arc::new(Mutex::new(plan.claims));
    let (ask_stop, stop_asked) = mpsc::channel(1);
    let (ask_hand_over, hand_over_asked) = mpsc::channel(1);
    let (tell_ending, ending) = watch::channel(Ending::None);
    let operator = Arc::new(Operator {
        shard: shard.clone(),
        facts,
        claims: Arc::clone(&claims),
        recent: Recent::default(),
        options: plan.options,
        device: device.clone(),
        stop: ask_stop,
        hand_over: ask_hand_over,
        ending: ending.clone(),
    });
    let control = server::serve(control_listener, Arc::clone(&operator), ended(ending));
    let control = tokio::spawn(control);
    let housekeeping = tokio::spawn(keep_house(Arc::clone(&operator)));
    let queues = operator.facts.engines.queues.clone();
    let looking = tokio::spawn(engines::keep_looking(plan.offload, shard.clone(), queues));
    let monitoring = plan.metrics.map(|endpoint| tokio::spawn(monitor(endpoint, &operator, &events)));
    let reloading = tokio::spawn(reload::at_every(plan.hangups, reloader));
    let mut watch = Watch {
        signals: &mut signals,
        exit: &mut exit,
        stop: stop_asked,
        hand_over: hand_over_asked,
        device: device.clone(),
    };
    let cause = match watch.until_ready(ready).await {
        Ok(attached) => {
            announce(&operator, &export, &addresses, attached.as_ref(), &events).await;
            watch.until_the_end().await
        }
        Err(cause) => cause,
    };
    manager::stopping();
    housekeeping.abort();
    looking.abort();
    reloading.abort();
    monitoring.inspect(JoinHandle::abort);
    let hands_over = matches!(cause, Cause::HandOver);
    if hands_over {
        plan.kept.iter().for_each(Kept::stay);
        // Clients that are in their handshake come to its end; those behind them wait for the next process.
        close.send_replace(true);
        let led_in = async { while doors.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_HANDSHAKES, led_in).await;
    }
    close_doors(doors).await;
    let mut no_device = None;
    let outcome = match cause {
        Cause::Exit(exit) => Err(Unclean::Exit(exit)),
        Cause::HandOver => {
            let (device, claims) = (device.as_ref(), claims.as_ref());
            let array = array_facts(&operator.facts, &export);
            let hand_over = HandOver { array, export, device, listeners: plan.kept, claims };
            hand_over.run(&shard, exit).await.map(|()| None)
        }
        Cause::NoDevice(why) => {
            no_device = Some(why);
            stop(&shard, exit, &mut signals).await.map(|()| None)
        }
        Cause::Stop => {
            let parity = parity_left(&operator).await;
            stop(&shard, exit, &mut signals).await.map(|()| parity)
        }
    };
    // The shard has closed its ends; what it said is on its way through TLS.
    tls.finish(LAST_WORDS).await;
    // From here on another daemon may take the members and the sockets.
    claims.lock().unwrap_or_else(PoisonError::into_inner).release_all();
    drop(control_file);
    let name = &operator.facts.name;
    let ending = match &outcome {
        Ok(_) if hands_over => Ok(format!("{name} is left to the next process")),
        Ok(_) if operator.facts.read_only => Ok(format!("{name} is stopped")),
        Ok(None) => Ok(format!("{name} is stopped and marked clean")),
        Ok(Some(parity)) => Ok(format!("{name} is stopped; {parity}")),
        Err(unclean) => Err(format!("{name}: {unclean}")),
    };
    events.tell(match &ending {
        Ok(text) => Event::new(EventKind::Stopped, text),
        Err(text) => Event::new(EventKind::StoppedUnclean, text),
    });
    tell_ending.send_replace(Some(ending));
    // The next process begins when this one has ended, and the kernel waits for it.
    let limit = if hands_over { LAST_EVENTS_OF_ALL } else { LAST_EVENTS };
    tokio::join!(last_words(control), teller.finish(&events, limit));
    if let Some(why) = no_device {
        return Err(Failure::operating(format!("{name} is no block device: {why}")));
    }
    outcome.map(|_| ()).map_err(|unclean| Failure::operating(format!("{name}: {unclean}")))
}

/// What a successor compares with its own.
fn array_facts(facts: &Facts, export: &ExportInfo) -> ArrayFacts {
    ArrayFacts {
        uuid: facts.superblock.set_uuid().to_string(),
        name: facts.name.clone(),
        size: export.size(),
        block: export.block_sizes().minimum(),
        flags: export.features().transmission_flags(Headers::Simple, Contexts::NONE),
    }
}

/// The device, and who tells when it answers.
type Beginning = (Option<Device>, Option<oneshot::Receiver<Result<device::Attached, String>>>);

/// Goes on with what an earlier process left, and sees to the device.
fn go_on(
    config: &Config,
    facts: &Facts,
    left: Inheritance,
    idle: Option<Duration>,
    peers: &Peers,
    shard: &ShardHandle,
    export: &ExportInfo,
) -> Result<Beginning, String> {
    let inherited = left.settle(&array_facts(facts, export), export);
    let of_the_kernel = |one: &&NewConnection| one.kind == ConnectionKind::Kernel;
    let kernel = inherited.connections.iter().filter(of_the_kernel);
    let sockets = kernel.filter_map(|one| one.socket.try_clone().ok()).collect();
    if !inherited.connections.is_empty() {
        tracing::info!("{} connections go on from the process before", inherited.connections.len());
    }
    for mut connection in inherited.connections {
        if connection.kind != ConnectionKind::Kernel {
            connection.terms.idle = idle;
            // They count, but none is turned away that was let in.
            let admission = peers.admit(Peer::of_socket(&connection.socket), 0);
            connection.terms.lease = admission.map(|admission| Box::new(admission) as Box<dyn Send>);
        }
        shard.connect(connection).map_err(|error| error.to_string())?;
    }
    let left = Left { record: inherited.device, netlink: inherited.netlink, sockets };
    let Some(wanted) = Wanted::of(config, &left, export, shard.geometry())? else { return Ok((None, None)) };
    let (tell, ready) = oneshot::channel();
    let device = Device::start(wanted, left, shard.clone(), tell).map_err(|error| error.to_string())?;
    Ok((Some(device), Some(ready)))
}

/// What the superblocks will say about parity that is not known to match, in words: they keep how far the
/// resync came. None if all of it matches.
async fn parity_left(operator: &Operator) -> Option<String> {
    // A shard that does not answer has other troubles, which its exit tells.
    let asked = tokio::time::timeout(LAST_LOOK, operator.look()).await;
    let array = asked.ok()?.ok()?.array;
    if !array.resync_due {
        return None;
    }
    let resync = array.sync.filter(|sync| sync.kind == SyncKind::Resync && sync.total_stripes > 0);
    Some(match resync {
        Some(sync) => format!(
            "parity is resynced up to {} %, the rest follows at the next start",
            sync.done_stripes.saturating_mul(100) / sync.total_stripes
        ),
        None => "parity is not resynced yet, which follows at the next start".to_owned(),
    })
}

/// A kernel that is short of memory may want to write to this volume before it gives this program any; see
/// [`set_io_flusher`]. The daemon works without it, so being refused is no more than worth knowing.
fn declare_io_flusher() {
    if let Err(error) = set_io_flusher() {
        tracing::info!(
            "the kernel does not treat this program as part of a block device ({error}; it takes \
             CAP_SYS_RESOURCE); that matters only if this machine mounts the volume itself and runs out of \
             memory"
        );
    }
}

/// Locks what else is mapped now, beside the buffers that the shard has locked: a volume that swap lies on
/// must not need memory to make memory free. What is mapped later is not needed to serve, and locking that
/// too would make mappings fail where the limit is low.
fn lock_the_rest() {
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT) {
        tracing::info!("only the buffers are locked into memory, not the program itself: {error}");
    }
}

fn open_doors(bound: Vec<(Address, Listener)>, door: &Door) -> JoinSet<()> {
    let mut doors = JoinSet::new();
    for (address, listener) in bound {
        let kept = door.clone().keep(address, listener);
        doors.spawn(async {
            if let Err(error) = kept.await {
                tracing::error!("an address is given up: {error}");
            }
        });
    }
    doors
}

/// No further client comes in, and the sockets' files are gone.
async fn close_doors(mut doors: JoinSet<()>) {
    doors.shutdown().await;
}

/// Says that the array is served, to whoever started the daemon.
async fn announce(
    operator: &Operator,
    export: &ExportInfo,
    addresses: &[Address],
    attached: Option<&device::Attached>,
    events: &Events,
) {
    let facts = &operator.facts;
    let Ok(shard) = operator.look().await else { return };
    let geometry = &shard.geometry;
    let (all, missing) = (geometry.members(), shard.array.missing);
    let members = match missing {
        0 => format!("{all} members"),
        _ => format!("{} of {all} members", all.saturating_sub(missing)),
    };
    let mut addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
    addresses.extend(attached.map(|attached| attached.node.display().to_string()));
    let line = format!(
        "serving {} (raid{}, {members}, {}{}) on {}",
        facts.name,
        geometry.level().number(),
        human::bytes(export.size()),
        if facts.read_only { ", read-only" } else { "" },
        addresses.join(" ")
    );
    if let Err(failure) = out::print(&format!("{line}\n")) {
        tracing::warn!("{failure}");
    }
    events.started(Event::new(EventKind::Started, line), missing);
    manager::ready(&picture::one_line(facts, &shard));
}

/// Answers whoever monitors the array.
fn monitor(
    endpoint: metrics::Endpoint,
    operator: &Arc<Operator>,
    events: &Events,
) -> impl Future<Output = ()> + Send + 'static {
    tracing::info!("metrics are at {}", endpoint.address());
    let (operator, counters, started) = (Arc::clone(operator), events.counters(), SystemTime::now());
    let page = move || {
        let (operator, events) = (Arc::clone(&operator), Arc::clone(&counters));
        async move {
            let shard = operator.look().await.map_err(|error| error.to_string())?;
            let status = picture::status(&operator.facts, &shard);
            Ok(metrics::text(&metrics::Source { status: &status, events: &events, started }))
        }
    };
    async move {
        if let Err(error) = metrics::serve(endpoint, page).await {
            tracing::error!("metrics are given up: {error}");
        }
    }
}

/// Tells the service manager how things are, and lets go of members that failed.
async fn keep_house(operator: Arc<Operator>) {
    let mut every = tokio::time::interval(manager::interval());
    loop {
        every.tick().await;
        if let Ok(shard) = operator.look().await {
            manager::alive(&picture::one_line(&operator.facts, &shard));
            // Whoever asks for the status next is told what was done since.
            let _ = operator.recent.of(&shard);
        }
    }
}

/// Why the array is not marked clean on all its members.
#[derive(Debug, thiserror::Error)]
enum Unclean {
    /// The shard says so.
    #[error("{}", exit_text(.0))]
    Exit(ShardExit),
    /// It did not say anything in time.
    #[error(
        "a member or a device did not finish its operations within {} seconds; requests that were not answered are lost, \
         the array is not marked clean, and it will be resynced when it is served again", STOP_DEADLINE.as_secs()
    )]
    Late,
    /// The shard came to a good end, and what the next process needs could not be left to it.
    #[error(
        "what the next process needs cannot be given to the service manager ({0}); clients are disconnected, and \
         the block device gets new connections from the next process; the array is marked clean"
    )]
    NotLeft(Arc<io::Error>),
    /// Somebody could not wait.
    #[error(
        "stopped at once by a second {0}: requests that were not answered are lost, the array is not marked \
         clean, and it will be resynced when it is served again"
    )]
    Impatience(&'static str),
}

fn exit_text(exit: &ShardExit) -> String {
    match exit {
        ShardExit::Stopped { clean: true } => "the volume ended without being told to".to_owned(),
        ShardExit::Stopped { clean: false } => {
            "stopped, but not marked clean: more members are gone than parity covers, so the superblocks were \
             left as they were"
                .to_owned()
        }
        ShardExit::TimedOut => Unclean::Late.to_string(),
        ShardExit::Fatal(why) => format!(
            "the volume was stopped because of a defect of this program, before it could do harm: {why}; it is \
             not marked clean and will be resynced when it is served again"
        ),
        ShardExit::Panicked => "the volume's thread panicked, a defect of this program; the array is not \
             marked clean and will be resynced when it is served again"
            .to_owned(),
    }
}

/// Finishes what is in flight and marks the array clean, unless it takes too long or a second signal
/// comes.
async fn stop(
    shard: &ShardHandle,
    exit: oneshot::Receiver<ShardExit>,
    signals: &mut Signals,
) -> Result<(), Unclean> {
    // If it is gone, its exit tells why.
    let _ = shard.stop(STOP_DEADLINE);
    let exit = tokio::select! {
        exit = exit => exit.unwrap_or(ShardExit::Panicked),
        signal = signals.next() => return Err(Unclean::Impatience(signal)),
        () = tokio::time::sleep(STOP_DEADLINE + STOP_GRACE) => return Err(Unclean::Late),
    };
    match exit {
        ShardExit::Stopped { clean: true } => Ok(()),
        exit => Err(Unclean::Exit(exit)),
    }
}

/// Resolves when the daemon has ended.
async fn ended(mut ending: watch::Receiver<Ending>) {
    // An error means that the sender is gone, which is an end as well.
    let _ = ending.wait_for(Option::is_some).await;
}

/// Lets operators that wait for the end have their answers.
async fn last_words(control: JoinHandle<io::Result<()>>) {
    match tokio::time::timeout(LAST_WORDS, control).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!("control socket: {error}"),
        Ok(Err(error)) => tracing::warn!("control socket: {error}"),
        Err(_) => tracing::debug!("an operator did not take its last answer"),
    }
}

/// The signals that mean: stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    first: Option<Instant>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            first: None,
        })
    }

    /// The name of the next one that means something: the first, and those that are no echo of it.
    async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            let echo = self.first.is_some_and(|first| first.elapsed() < SIGNAL_ECHO);
            self.first.get_or_insert_with(Instant::now);
            if !echo {
                return name;
            }
            tracing::debug!("another {name} right after the first signal is taken for the same");
        }
    }
}
