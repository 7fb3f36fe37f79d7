//! `[metrics]` and `[events]`: what is told to monitoring, and to a program of the operator's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::address::Address;
use crate::reader::{Reader, Section};
use crate::suggest::nearest;

/// `[metrics]`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Where Prometheus finds the metrics: only this machine can reach it. `None`: nowhere.
    pub listen: Option<Address>,
}

/// `[events]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Events {
    /// The program that is run on events; absolute.
    pub hook: Option<PathBuf>,
    /// The kinds of events that it is run on.
    pub on: Vec<EventKind>,
    /// How long a run may take.
    pub hook_timeout: Duration,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            hook: None,
            on: EventKind::ALL.to_vec(),
            hook_timeout: Duration::from_secs(HOOK_TIMEOUT_S_DEFAULT.into()),
        }
    }
}

const HOOK_TIMEOUT_S_DEFAULT: u32 = 30;

/// What can happen to an array. docs/events.md says when each does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EventKind {
    /// The array is served.
    Started,
    /// Roles are without a member in sync: now, or already at the start.
    Degraded,
    /// No role is without a member in sync any more.
    Restored,
    /// More members are gone than parity covers.
    Broken,
    /// A member was failed.
    MemberFailed,
    /// A device was added.
    MemberAdded,
    /// A member is in sync again.
    MemberInSync,
    /// A spare was given a role.
    SpareUsed,
    /// A resync began.
    ResyncStarted,
    /// It ended.
    ResyncEnded,
    /// A comparison of parity with the data began.
    ScrubStarted,
    /// It ended or was broken off.
    ScrubEnded,
    /// A rebuild began.
    RebuildStarted,
    /// It ended.
    RebuildEnded,
    /// Parity was found that did not match.
    Mismatch,
    /// A block that could not be read was recovered and rewritten.
    ReadErrorCorrected,
    /// Data could neither be read nor recovered.
    ReadErrorUnrecovered,
    /// Blocks went into the bad-block log of a member.
    BadBlocksRecorded,
    /// Blocks of a bad-block log are good again.
    BadBlocksCleared,
    /// A computation failed.
    ComputeFailed,
    /// A work queue failed and is not used until it works again.
    EngineQuarantined,
    /// It works again.
    EngineRevived,
    /// A work queue is gone.
    EngineRemoved,
    /// The result of a work queue was wrong.
    EngineMismatch,
    /// A work queue does not give back what it has.
    EngineStuck,
    /// A client was turned away.
    ClientRefused,
    /// The array is stopped as it should be.
    Stopped,
    /// The array is stopped and not marked clean.
    StoppedUnclean,
}

/// A text that is no [`EventKind`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EventKindError(String);

impl EventKind {
    /// All there are.
    pub const ALL: [EventKind; 28] = [
        Self::Started,
        Self::Degraded,
        Self::Restored,
        Self::Broken,
        Self::MemberFailed,
        Self::MemberAdded,
        Self::MemberInSync,
        Self::SpareUsed,
        Self::ResyncStarted,
        Self::ResyncEnded,
        Self::ScrubStarted,
        Self::ScrubEnded,
        Self::RebuildStarted,
        Self::RebuildEnded,
        Self::Mismatch,
        Self::ReadErrorCorrected,
        Self::ReadErrorUnrecovered,
        Self::BadBlocksRecorded,
        Self::BadBlocksCleared,
        Self::ComputeFailed,
        Self::EngineQuarantined,
        Self::EngineRevived,
        Self::EngineRemoved,
        Self::EngineMismatch,
        Self::EngineStuck,
        Self::ClientRefused,
        Self::Stopped,
        Self::StoppedUnclean,
    ];

    /// Its name, in configurations and wherever programs see it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Degraded => "degraded",
            Self::Restored => "restored",
            Self::Broken => "broken",
            Self::MemberFailed => "member-failed",
            Self::MemberAdded => "member-added",
            Self::MemberInSync => "member-in-sync",
            Self::SpareUsed => "spare-used",
            Self::ResyncStarted => "resync-started",
            Self::ResyncEnded => "resync-ended",
            Self::ScrubStarted => "scrub-started",
            Self::ScrubEnded => "scrub-ended",
            Self::RebuildStarted => "rebuild-started",
            Self::RebuildEnded => "rebuild-ended",
            Self::Mismatch => "mismatch",
            Self::ReadErrorCorrected => "read-error-corrected",
            Self::ReadErrorUnrecovered => "read-error-unrecovered",
            Self::BadBlocksRecorded => "bad-blocks-recorded",
            Self::BadBlocksCleared => "bad-blocks-cleared",
            Self::ComputeFailed => "compute-failed",
            Self::EngineQuarantined => "engine-quarantined",
            Self::EngineRevived => "engine-revived",
            Self::EngineRemoved => "engine-removed",
            Self::EngineMismatch => "engine-mismatch",
            Self::EngineStuck => "engine-stuck",
            Self::ClientRefused => "client-refused",
            Self::Stopped => "stopped",
            Self::StoppedUnclean => "stopped-unclean",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for EventKind {
    type Err = EventKindError;

    fn from_str(text: &str) -> Result<Self, EventKindError> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == text);
        found.ok_or_else(|| {
            let words = || Self::ALL.into_iter().map(Self::word);
            EventKindError(match nearest(text, words()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the kinds of events are {}", words().collect::<Vec<_>>().join(", ")),
            })
        })
    }
}

/// Reads `[metrics]`.
pub(crate) fn read_metrics(reader: &mut Reader<'_>, metrics: Section<'_>) -> Metrics {
    let local = |text: &str| {
        let address: Address = text.parse().map_err(|error| format!("{error}"))?;
        if address.is_local() {
            return Ok(address);
        }
        Err("other machines could reach that, and nobody is asked for a password: use 127.0.0.1, [::1] or \
             a unix socket, and let an exporter with TLS in front of it if need be"
            .to_owned())
    };
    Metrics { listen: reader.text(metrics, "listen", local) }
}

/// Reads `[events]`; a relative path is refused, for what is run should not depend on where a file lies.
pub(crate) fn read_events(reader: &mut Reader<'_>, events: Section<'_>) -> Events {
    let program = |text: &str| match Path::new(text) {
        path if path.is_absolute() && !text.chars().any(char::is_control) => Ok(path.to_owned()),
        _ => Err("it must be the absolute path of a program, without arguments".to_owned()),
    };
    let default = Events::default();
    let kinds = reader.texts(events, "on", |text| text.parse::<EventKind>().map_err(|e| e.to_string()));
    let seconds = reader.number(events, "hook_timeout_s", HOOK_TIMEOUT_S_DEFAULT, 1..=3600, "seconds");
    Events {
        hook: reader.text(events, "hook", program),
        on: kinds.map_or(default.on, |kinds| kinds.into_iter().map(|(kind, _)| kind).collect()),
        hook_timeout: Duration::from_secs(seconds.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_their_words() {
        for kind in EventKind::ALL {
            assert_eq!(kind.word().parse(), Ok(kind));
            assert!(kind.word().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        }
        let error = "degradet".parse::<EventKind>().unwrap_err().to_string();
        assert!(error.contains("\"degraded\""), "{error}");
        let error = "x".parse::<EventKind>().unwrap_err().to_string();
        assert!(error.contains("started") && error.contains("stopped-unclean"), "{error}");
    }
}
