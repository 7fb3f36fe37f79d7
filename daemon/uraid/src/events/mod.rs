//! What happens to an array, told to everybody who wants to know: the log or the journal, the hook
//! program, and whoever reads the counters.
//!
//! ```text
//!   shard ── News ──┐                          ┌──> journal, or log
//!   daemon ─ Event ─┴─> bounded queue ─> teller ├──> counters
//!                                               └──> bounded queue ─> hook, a thread of its own
//! ```
//!
//! Promises: whoever tells never waits: what does not fit a queue is dropped and counted, and the log says
//! so. Everybody is told the same [`Event`], in the order in which things happened. What happened before
//! the array was announced is told right after that. docs/events.md lists the kinds.

mod hook;
mod journal;
mod kinds;
mod teller;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uraid_config::EventKind;
use uraid_shard::{Listener, News};

pub use self::hook::Hook;
use self::journal::Journal;
pub use self::kinds::{Severity, message_id};
use self::teller::Teller;

/// Things that may wait to be told.
const QUEUE: usize = 1024;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What kind of thing.
    pub kind: EventKind,
    /// How grave it is.
    pub severity: Severity,
    /// When.
    pub at: SystemTime,
    /// What happened, for people.
    pub text: String,
    /// The member that it is about.
    pub member: Option<PathBuf>,
    /// The role that it is about.
    pub role: Option<u16>,
    /// The work queue that it is about.
    pub engine: Option<String>,
    /// The client that it is about.
    pub client: Option<String>,
    /// Stripes whose parity did not match.
    pub mismatches: Option<u64>,
}

impl Event {
    /// An event of this kind, now, about nothing in particular.
    pub fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Event {
            kind,
            severity: kinds::severity(kind),
            at: SystemTime::now(),
            text: text.into(),
            member: None,
            role: None,
            engine: None,
            client: None,
            mismatches: None,
        }
    }

    /// What it is about, by the names under which programs find it: of the journal's fields and of the
    /// hook's environment, with `URAID_` in front.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let member = self.member.as_ref().map(|path| path.to_string_lossy().into_owned());
        let all = [
            ("MEMBER", member),
            ("ROLE", self.role.map(|role| role.to_string())),
            ("ENGINE", self.engine.clone()),
            ("CLIENT", self.client.clone()),
            ("MISMATCHES", self.mismatches.map(|count| count.to_string())),
        ];
        all.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
    }
}

/// Which array is meant.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name, without a host.
    pub array: String,
    /// Its UUID as mdadm prints it.
    pub uuid: String,
}

/// An event as programs read it, version 1 of docs/events.md.
#[derive(Serialize, Debug)]
struct EventDocument<'a> {
    version: u32,
    event: &'static str,
    severity: &'static str,
    array: &'a str,
    uuid: &'a str,
    at: u64,
    message: &'a str,
    member: Option<String>,
    role: Option<u16>,
    engine: Option<&'a str>,
    client: Option<&'a str>,
    mismatches: Option<u64>,
}

/// The event as one line of JSON.
fn to_json(event: &Event, subject: &Subject) -> String {
    let document = EventDocument {
        version: 1,
        event: event.kind.word(),
        severity: event.severity.word(),
        array: &subject.array,
        uuid: &subject.uuid,
        at: event.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        message: &event.text,
        member: event.member.as_ref().map(|path| path.to_string_lossy().into_owned()),
        role: event.role,
        engine: event.engine.as_deref(),
        client: event.client.as_deref(),
        mismatches: event.mismatches,
    };
    // Text and numbers can always be written.
    serde_json::to_string(&document).unwrap_or_default() + "\n"
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct EventCounters {
    told: [AtomicU64; EventKind::ALL.len()],
    /// What was dropped because it came too fast.
    dropped: AtomicU64,
    /// Runs of the hook by how they ended, as [`HookEnd`] has it.
    hook: [AtomicU64; HookEnd::ALL.len()],
}

/// How a run of the hook ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookEnd {
    /// With exit code 0.
    Ok,
    /// Otherwise, or it could not be started.
    Failed,
    /// It took too long.
    TimedOut,
    /// It was not run, because too many events waited for it.
    Dropped,
}

impl HookEnd {
    /// All there are.
    pub const ALL: [HookEnd; 4] = [Self::Ok, Self::Failed, Self::TimedOut, Self::Dropped];

    /// Its name for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Dropped => "dropped",
        }
    }
}

impl EventCounters {
    /// How many events of this kind there were.
    pub fn told(&self, kind: EventKind) -> u64 {
        self.told.get(kind as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How many things were not told, because they came too fast.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many runs of the hook ended like this.
    pub fn hook(&self, end: HookEnd) -> u64 {
        self.hook.get(end as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn count(&self, kind: EventKind) {
        if let Some(count) = self.told.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_hook(&self, end: HookEnd) {
        if let Some(count) = self.hook.get(end as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says whether it is the first one.
    fn count_dropped(&self) -> bool {
        self.dropped.fetch_add(1, Ordering::Relaxed) == 0
    }
}

/// What travels to the teller.
#[derive(Debug)]
enum Item {
    News(News),
    Event(Event),
    /// The array is served, and so many roles are without a member in sync.
    Started {
        event: Event,
        missing: u16,
    },
    /// Nothing follows.
    End,
}

/// Where events go. Clones lead to the same place.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Item>,
    counters: Arc<EventCounters>,
}

impl Events {
    /// A queue, and what takes out of it. Nothing is told before [`Telling::start`].
    pub fn new(subject: Subject, hook: Option<Hook>) -> (Self, Telling) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let counters = Arc::new(EventCounters::default());
        let events = Events { queue, counters: Arc::clone(&counters) };
        (events, Telling { waiting, subject, hook, counters })
    }

    /// Tells of something; never waits.
    pub fn tell(&self, event: Event) {
        self.push(Item::Event(event));
    }

    /// Tells that the array is served, with so many roles without a member in sync. What happened before
    /// follows it.
    pub fn started(&self, event: Event, missing: u16) {
        self.push(Item::Started { event, missing });
    }

    /// What the shard tells its news.
    pub fn listener(&self) -> Listener {
        let events = self.clone();
        Box::new(move |news| events.push(Item::News(news)))
    }

    /// What was told.
    pub fn counters(&self) -> Arc<EventCounters> {
        Arc::clone(&self.counters)
    }

    fn push(&self, item: Item) {
        if self.queue.try_send(item).is_err() && self.counters.count_dropped() {
            tracing::warn!("events happen faster than they can be told; some are dropped, and counted");
        }
    }
}

/// The other end of [`Events`].
#[derive(Debug)]
pub struct Telling {
    waiting: mpsc::Receiver<Item>,
    subject: Subject,
    hook: Option<Hook>,
    counters: Arc<EventCounters>,
}

impl Telling {
    /// Begins to tell. Must be called within a tokio runtime.
    pub fn start(self) -> Teller {
        let Telling { waiting, subject, hook, counters } = self;
        let journal = Journal::if_stderr_is_one(&subject);
        let hook = hook.map(|hook| hook.start(subject.clone(), Arc::clone(&counters)));
        Teller::start(waiting, journal, hook, subject, counters)
    }
}

/// Tells what is left, within `limit`.
async fn finish(events: &Events, task: JoinHandle<()>, limit: Duration) {
    // Behind everything that happened. If there is no room, nobody is told anything any more.
    let end = async {
        let _ = events.queue.send(Item::End).await;
        let _ = task.await;
    };
    if tokio::time::timeout(limit, end).await.is_err() {
        tracing::warn!("the last events were not told: the journal or the hook takes too long");
    }
}
