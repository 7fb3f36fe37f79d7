//! Takes events out of the queue and tells them: adds those that follow from others (degraded, restored),
//! and hands each to the journal or the log, the counters and the hook.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uraid_config::EventKind;
use uraid_shard::News;

use super::hook::RunningHook;
use super::journal::Journal;
use super::kinds::{Severity, of_news};
use super::{Event, EventCounters, Events, Item, Subject, finish};

/// What happened before the array was announced is kept until then, so much of it at most.
const BEFORE_START_MAX: usize = 256;

/// A teller at work.
#[derive(Debug)]
pub struct Teller {
    task: JoinHandle<()>,
}

impl Teller {
    pub(super) fn start(
        mut waiting: mpsc::Receiver<Item>,
        journal: Option<Journal>,
        mut hook: Option<RunningHook>,
        subject: Subject,
        counters: Arc<EventCounters>,
    ) -> Self {
        let task = tokio::spawn(async move {
            let mut sequence = Sequence::default();
            while let Some(item) = waiting.recv().await {
                let (events, end) = sequence.next(item);
                for event in events {
                    counters.count(event.kind);
                    if !said(journal.as_ref(), &event).await {
                        log(&subject, &event);
                    }
                    if let Some(hook) = &mut hook {
                        hook.call(event);
                    }
                }
                if end {
                    break;
                }
            }
            if let Some(hook) = hook.take() {
                hook.finish().await;
            }
        });
        Teller { task }
    }

    /// Tells what is left, the hook too; returns after `limit` at the latest.
    pub async fn finish(self, events: &Events, limit: Duration) {
        finish(events, self.task, limit).await;
    }
}

/// Whether there is a journal, and it took the event.
async fn said(journal: Option<&Journal>, event: &Event) -> bool {
    match journal {
        Some(journal) => journal.say(event).await,
        None => false,
    }
}

fn log(subject: &Subject, event: &Event) {
    let (volume, event, text) = (&subject.array, (event.kind.word(), event.severity), &event.text);
    match event {
        (event, Severity::Info) => tracing::info!(volume, event, "{text}"),
        (event, Severity::Warning) => tracing::warn!(volume, event, "{text}"),
        (event, Severity::Error | Severity::Critical) => tracing::error!(volume, event, "{text}"),
    }
}

/// The order in which things are told, and what follows from them.
#[derive(Debug, Default)]
struct Sequence {
    started: bool,
    /// What happened before the start was told.
    before: Vec<Event>,
    /// Roles without a member in sync, as told last.
    missing: u16,
}

impl Sequence {
    /// What is to be told now, and whether that is all there will ever be.
    fn next(&mut self, item: Item) -> (Vec<Event>, bool) {
        let events = match item {
            Item::News(news) => self.news(news),
            Item::Event(event) => vec![event],
            Item::Started { event, missing } => return (self.start(event, missing), false),
            Item::End => return (std::mem::take(&mut self.before), true),
        };
        if self.started {
            return (events, false);
        }
        let room = BEFORE_START_MAX.saturating_sub(self.before.len());
        self.before.extend(events.into_iter().take(room));
        (Vec::new(), false)
    }

    fn start(&mut self, event: Event, missing: u16) -> Vec<Event> {
        self.started = true;
        let mut events = vec![event];
        let known = self.before.iter().any(|event| event.kind == EventKind::Degraded);
        if missing > 0 && !known {
            self.missing = missing;
            events.push(Event::new(EventKind::Degraded, format!("started degraded: {}", lacks(missing))));
        }
        events.append(&mut self.before);
        events
    }

    fn news(&mut self, news: News) -> Vec<Event> {
        let now = match &news {
            News::Notice { missing, .. } => Some(*missing),
            _ => None,
        };
        let mut events = of_news(news);
        // Before the start, fewer than there were is nothing to be told: nobody knew.
        let was = self.missing;
        match now {
            Some(missing)
                if missing > was && events.iter().any(|event| event.kind == EventKind::MemberFailed) =>
            {
                self.missing = missing;
                events.push(Event::new(EventKind::Degraded, format!("degraded: {}", lacks(missing))));
            }
            Some(0) if was > 0 => {
                self.missing = 0;
                events.push(Event::new(EventKind::Restored, "all roles have a member in sync again"));
            }
            Some(missing) => self.missing = missing,
            None => {}
        }
        events
    }
}

/// What an array lacks, in words.
fn lacks(missing: u16) -> String {
    match missing {
        1 => "1 role has no member in sync".to_owned(),
        n => format!("{n} roles have no member in sync"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::SystemTime;

    use tracing::Level;
    use uraid_core::{MemberId, Notice, Role, SyncKind};
    use uraid_shard::NoticeRecord;

    use super::*;

    fn notice(notice: Notice, missing: u16, promoted: Vec<(PathBuf, Role)>) -> Item {
        let record =
            NoticeRecord { at: SystemTime::now(), notice, level: Level::INFO, text: "x".into(), path: None };
        Item::News(News::Notice { record, missing, promoted })
    }

    fn failed(member: u16, missing: u16) -> Item {
        let what = Notice::MemberFailed { member: MemberId(member), role: Role(member), why: "x".into() };
        notice(what, missing, Vec::new())
    }

    fn words(sequence: &mut Sequence, items: Vec<Item>) -> Vec<&'static str> {
        items.into_iter().flat_map(|item| sequence.next(item).0).map(|event| event.kind.word()).collect()
    }

    fn started(missing: u16) -> Item {
        Item::Started { event: Event::new(EventKind::Started, "up"), missing }
    }

    #[test]
    fn a_failure_a_spare_and_its_rebuild() {
        let rebuild = SyncKind::Rebuild;
        let items = vec![
            started(0),
            failed(2, 1),
            notice(Notice::SyncStarted { kind: rebuild }, 1, vec![("/s".into(), Role(2))]),
            notice(Notice::MemberInSync { member: MemberId(6), role: Role(2) }, 0, Vec::new()),
            notice(
                Notice::SyncFinished {
                    kind: rebuild,
                    mismatches: 0,
                    repaired: true,
                    skipped: 0,
                    complete: true,
                },
                0,
                Vec::new(),
            ),
        ];
        let told = words(&mut Sequence::default(), items);
        let expected = [
            "started",
            "member-failed",
            "degraded",
            "rebuild-started",
            "spare-used",
            "member-in-sync",
            "restored",
            "rebuild-ended",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_degraded_start_is_told_at_once_and_what_came_before_it_follows() {
        let mut sequence = Sequence::default();
        let resync = notice(Notice::SyncStarted { kind: SyncKind::Resync }, 1, Vec::new());
        assert!(words(&mut sequence, vec![resync]).is_empty());
        assert_eq!(words(&mut sequence, vec![started(1)]), ["started", "degraded", "resync-started"]);
        // One more is told again; the same number is not.
        assert_eq!(words(&mut sequence, vec![failed(0, 2)]), ["member-failed", "degraded"]);
        assert_eq!(words(&mut sequence, vec![failed(7, 2)]), ["member-failed"]);
    }

    #[test]
    fn a_failure_before_the_start_is_told_once() {
        let mut sequence = Sequence::default();
        assert!(words(&mut sequence, vec![failed(1, 1)]).is_empty());
        assert_eq!(words(&mut sequence, vec![started(1)]), ["started", "member-failed", "degraded"]);
        let mut sequence = Sequence::default();
        let (kept, end) = {
            words(&mut sequence, vec![failed(1, 1)]);
            sequence.next(Item::End)
        };
        assert!(end && kept.len() == 2, "an array that never started says what happened");
    }

    #[test]
    fn mismatches_are_an_event_of_their_own() {
        let found = Notice::SyncFinished {
            kind: SyncKind::Resync,
            mismatches: 3,
            repaired: true,
            skipped: 0,
            complete: true,
        };
        let mut sequence = Sequence::default();
        words(&mut sequence, vec![started(0)]);
        let events = sequence.next(notice(found, 0, Vec::new())).0;
        let told: Vec<_> = events.iter().map(|event| (event.kind.word(), event.mismatches)).collect();
        assert_eq!(told, [("mismatch", Some(3)), ("resync-ended", Some(3))]);
    }
}
