//! What is fixed for each kind of event: its message id in the journal and how grave it is; and what news
//! of the shard are of which kind.

use async_tx::Alert;
use tracing::Level;
use uraid_config::EventKind;
use uraid_core::{Notice, SyncKind};
use uraid_shard::{AlertRecord, News, NoticeRecord};

use super::Event;

/// How grave an event is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// As it should be.
    Info,
    /// To be looked at some time.
    Warning,
    /// To be acted upon.
    Error,
    /// To be acted upon at once.
    Critical,
}

impl Severity {
    /// Its name for programs.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
            Severity::Critical => "critical",
        }
    }

    /// The journal's PRIORITY, which is syslog's.
    pub(super) fn priority(self) -> u8 {
        match self {
            Severity::Info => 6,
            Severity::Warning => 4,
            Severity::Error => 3,
            Severity::Critical => 2,
        }
    }

    fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

/// The MESSAGE_ID of the journal. They were drawn at random once, and never change.
pub fn message_id(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Started => "b8283ec3f1da49dcb0b773962a5d3511",
        EventKind::Degraded => "67e2818c5bae43c6a64f6e33dc67e5fe",
        EventKind::Restored => "c23f8a75b9764e2eb6c27026b2e015d3",
        EventKind::Broken => "bc099c7bed444d8a8fc92c7e69fd9ed4",
        EventKind::MemberFailed => "885d24cd63714e1daf9e0eb80d96202e",
        EventKind::MemberAdded => "b85d45eb02a0463ca0004497cb73919e",
        EventKind::MemberInSync => "11ed2af4fae64f02a147e56057b79bb7",
        EventKind::SpareUsed => "98f7bad3e05a48cf8f33834a294c4a39",
        EventKind::ResyncStarted => "58eeb52504204aab866153cd802290e7",
        EventKind::ResyncEnded => "8879452065ec49999a28fc6b6a62f063",
        EventKind::ScrubStarted => "1840529cfc654b11a25b6ffa6a33f50d",
        EventKind::ScrubEnded => "52aeedd62ba04ba7ab66218e1cfa065b",
        EventKind::RebuildStarted => "3034197ef78a4ade9e74d1e0cbb08f91",
        EventKind::RebuildEnded => "3b95a36948624738bc2758299c68c60a",
        EventKind::Mismatch => "3d56856cb78648c092cee81726510b24",
        EventKind::ReadErrorCorrected => "095af4ce3ff3421ebbd47dea1061c1da",
        EventKind::ReadErrorUnrecovered => "fb3598ac75e24b1195e5788b686ce9d4",
        EventKind::BadBlocksRecorded => "3c9d9a2b56e14cf58f0d3b7d1a64c2e8",
        EventKind::BadBlocksCleared => "a1f7c05be2d84b0c9b68415f27d93e06",
        EventKind::ComputeFailed => "b83e1c140c29405bb90461005ddf9c41",
        EventKind::EngineQuarantined => "29123bc5d52a462d83ffa334e962832e",
        EventKind::EngineRevived => "b0f2c1ee9ded4f8490d530b2abc974a7",
        EventKind::EngineRemoved => "7f19d2ce542a4e64b4d7832d6daff2c3",
        EventKind::EngineMismatch => "ec772beff0564f7fb93d31769d249364",
        EventKind::EngineStuck => "55e0704b739e477ab5594f02c767a8db",
        EventKind::ClientRefused => "58a0894757504dfb88ca7826976c70f4",
        EventKind::Stopped => "e7d13ef40d384407baf138d12c707e1f",
        EventKind::StoppedUnclean => "320df39fb7ad42eb823c147a883d8490",
    }
}

/// How grave events of a kind usually are.
pub(super) fn severity(kind: EventKind) -> Severity {
    match kind {
        EventKind::Started
        | EventKind::Restored
        | EventKind::MemberAdded
        | EventKind::MemberInSync
        | EventKind::BadBlocksCleared
        | EventKind::ResyncStarted
        | EventKind::ResyncEnded
        | EventKind::ScrubStarted
        | EventKind::ScrubEnded
        | EventKind::RebuildStarted
        | EventKind::RebuildEnded
        | EventKind::EngineRevived
        | EventKind::EngineRemoved
        | EventKind::Stopped => Severity::Info,
        EventKind::SpareUsed
        | EventKind::Mismatch
        | EventKind::ReadErrorCorrected
        | EventKind::EngineQuarantined
        | EventKind::EngineMismatch
        | EventKind::ClientRefused => Severity::Warning,
        EventKind::Degraded
        | EventKind::MemberFailed
        | EventKind::ReadErrorUnrecovered
        | EventKind::BadBlocksRecorded
        | EventKind::ComputeFailed
        | EventKind::EngineStuck
        | EventKind::StoppedUnclean => Severity::Error,
        EventKind::Broken => Severity::Critical,
    }
}

/// Whether a client, or a disk that dies, can cause any number of these.
pub(super) fn may_flood(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::ClientRefused
            | EventKind::ReadErrorCorrected
            | EventKind::ReadErrorUnrecovered
            | EventKind::BadBlocksRecorded
            | EventKind::BadBlocksCleared
            | EventKind::ComputeFailed
    )
}

/// The events that news of the shard are, but for those that follow from how many roles are without a
/// member; in order.
pub(super) fn of_news(news: News) -> Vec<Event> {
    let text = news.text();
    match news {
        News::Notice { record, promoted, .. } => {
            let mut events = of_notice(&record);
            // A spare is at work from the moment that its rebuild begins.
            events.extend(promoted.into_iter().map(|(path, role)| {
                let text = format!("{} takes over role {role}", path.display());
                Event { member: Some(path), role: Some(role.0), ..Event::new(EventKind::SpareUsed, text) }
            }));
            events
        }
        News::Alert(record) => of_alert(&record).into_iter().collect(),
        News::Added(path) => vec![Event { member: Some(path), ..Event::new(EventKind::MemberAdded, text) }],
        News::Refused { peer, .. } => {
            vec![Event { client: Some(peer), ..Event::new(EventKind::ClientRefused, text) }]
        }
    }
}

fn of_notice(record: &NoticeRecord) -> Vec<Event> {
    let event =
        |kind| Event { at: record.at, member: record.path.clone(), ..Event::new(kind, record.text.clone()) };
    vec![match record.notice {
        Notice::MemberFailed { role, .. } => Event { role: Some(role.0), ..event(EventKind::MemberFailed) },
        Notice::ArrayBroken => event(EventKind::Broken),
        Notice::ReadErrorCorrected { .. } => event(EventKind::ReadErrorCorrected),
        Notice::ReadErrorUnrecovered { .. } => event(EventKind::ReadErrorUnrecovered),
        Notice::BadBlocksRecorded { .. } => event(EventKind::BadBlocksRecorded),
        Notice::BadBlocksCleared { .. } => event(EventKind::BadBlocksCleared),
        Notice::SyncStarted { kind: SyncKind::Resync } => event(EventKind::ResyncStarted),
        Notice::SyncStarted { kind: SyncKind::Scrub } => event(EventKind::ScrubStarted),
        Notice::SyncStarted { kind: SyncKind::Rebuild } => event(EventKind::RebuildStarted),
        Notice::SyncFinished { kind, mismatches, repaired, .. } => {
            let ended = match kind {
                SyncKind::Resync => Event { mismatches: Some(mismatches), ..event(EventKind::ResyncEnded) },
                SyncKind::Scrub => Event { mismatches: Some(mismatches), ..event(EventKind::ScrubEnded) },
                SyncKind::Rebuild => event(EventKind::RebuildEnded),
            };
            // One that was broken off is told as a warning.
            let ended = Event { severity: Severity::of(record.level), ..ended };
            if mismatches == 0 {
                return vec![ended];
            }
            let done = if repaired { "was rewritten" } else { "was left as it is" };
            let text = format!("parity of {mismatches} stripes did not match the data, and {done}");
            let found = Event {
                at: record.at,
                mismatches: Some(mismatches),
                ..Event::new(EventKind::Mismatch, text)
            };
            return vec![found, ended];
        }
        Notice::MemberInSync { role, .. } => Event { role: Some(role.0), ..event(EventKind::MemberInSync) },
        Notice::ComputeFailed => event(EventKind::ComputeFailed),
    }]
}

/// None of an alert that this version does not know.
fn of_alert(record: &AlertRecord) -> Option<Event> {
    let (kind, engine) = match &record.alert {
        Alert::Quarantined { backend, .. } => (EventKind::EngineQuarantined, backend),
        Alert::Mismatch { backend, .. } => (EventKind::EngineMismatch, backend),
        Alert::GivingUpLate { backend, .. } => (EventKind::EngineStuck, backend),
        Alert::Revived { backend, .. } => (EventKind::EngineRevived, backend),
        Alert::Removed { backend } => (EventKind::EngineRemoved, backend),
        _ => return None,
    };
    Some(Event { at: record.at, engine: Some(engine.to_string()), ..Event::new(kind, record.text.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = include_str!("../../../../systemd/uraid.catalog");
    const DOCUMENT: &str = include_str!("../../../../docs/events.md");

    #[test]
    fn every_kind_has_an_id_of_its_own_in_the_catalog_and_the_document() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in EventKind::ALL {
            let id = message_id(kind);
            assert!(id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{id}");
            assert!(seen.insert(id), "{kind} has the id of another one");
            assert!(CATALOG.contains(&format!("-- {id}\n")), "{kind} is not in systemd/uraid.catalog");
            let row = DOCUMENT.lines().find(|line| line.starts_with(&format!("| `{kind}` |")));
            let row = row.unwrap_or_else(|| panic!("{kind} is not in docs/events.md"));
            assert!(row.contains(id), "docs/events.md has another id: {row}");
            let severity = format!("| {} |", severity(kind).word());
            assert!(row.contains(&severity), "docs/events.md has another severity: {row}");
        }
        let entries = CATALOG.lines().filter(|line| line.starts_with("-- ")).count();
        assert_eq!(entries, EventKind::ALL.len(), "the catalog knows more than there is");
    }
}
