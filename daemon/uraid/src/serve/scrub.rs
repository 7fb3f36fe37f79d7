//! `uraid scrub` at the daemon: begins one and, if asked to, tells how it ended.

use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use uraid_core::{Notice, ScrubRefused, SyncKind};
use uraid_shard::{NoticeRecord, ShardStatus};

use super::operator::{Operator, answer, refused, stopping};
use crate::control::protocol::{ControlError, ErrorCode};

/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Operator {
    /// Begins a scrub. With `wait` the answer is given when it has ended; a failure is one that was broken
    /// off, or one that found parity that does not match and left it so.
    pub(super) async fn scrub(&self, repair: bool, wait: bool) -> Result<String, ControlError> {
        let earlier = last_end(&self.look().await?.notices).map(|(at, _)| at);
        let (tell, told) = oneshot::channel();
        let asked = self.shard.scrub(repair, move |result| {
            let _ = tell.send(result);
        });
        asked.map_err(|_| stopping())?;
        answer(told).await?.map_err(|why| refused(refusal(why).to_owned()))?;
        if !wait {
            return Ok(
                "the scrub begins; `uraid status` shows how far it is, and the log how it ends".to_owned()
            );
        }
        let mut ending = self.ending.clone();
        loop {
            tokio::select! {
                _ = ending.wait_for(Option::is_some) => return Err(broken_off()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let picture = self.look().await?;
            if picture.stopping {
                return Err(broken_off());
            }
            if !under_way(&picture) {
                // Only its own end counts: what an earlier scrub said is no answer.
                let end = last_end(&picture.notices).filter(|(at, _)| Some(*at) != earlier);
                return end.map_or_else(|| Err(broken_off()), |(_, end)| verdict(end));
            }
        }
    }
}

fn under_way(picture: &ShardStatus) -> bool {
    picture.sync.as_ref().is_some_and(|sync| sync.kind == SyncKind::Scrub)
}

/// What a scrub came to.
#[derive(Clone, Copy)]
struct End {
    mismatches: u64,
    repaired: bool,
    skipped: u64,
    complete: bool,
}

/// The end of the last scrub and when that was.
fn last_end(notices: &[NoticeRecord]) -> Option<(SystemTime, End)> {
    notices.iter().rev().find_map(|record| match record.notice {
        Notice::SyncFinished { kind: SyncKind::Scrub, mismatches, repaired, skipped, complete } => {
            Some((record.at, End { mismatches, repaired, skipped, complete }))
        }
        _ => None,
    })
}

/// That in words. All is well only if every stripe was compared, and matches or was repaired.
fn verdict(end: End) -> Result<String, ControlError> {
    let failed = |why: String| Err(ControlError::new(ErrorCode::Failed, why));
    match end {
        End { complete: false, .. } => Err(broken_off()),
        End { skipped, mismatches, .. } if skipped > 0 => failed(format!(
            "{skipped} stripes could not be compared or repaired, since too much of them cannot be read; the log \
             says where. Parity of {mismatches} stripes does or did not match the data"
        )),
        End { mismatches: 0, .. } => Ok("parity of all stripes matches the data".to_owned()),
        End { mismatches, repaired: true, .. } => {
            Ok(format!("parity of {mismatches} stripes did not match the data and was rewritten"))
        }
        End { mismatches, .. } => failed(format!(
            "parity of {mismatches} stripes does not match the data: a member has, or had, other bytes than were \
             written; look at the members' health first, then `uraid scrub --repair` takes the data for right"
        )),
    }
}

fn broken_off() -> ControlError {
    ControlError::new(
        ErrorCode::Failed,
        "the scrub was broken off: the volume stops, a member failed, or a rebuild goes first",
    )
}

fn refusal(why: ScrubRefused) -> &'static str {
    match why {
        ScrubRefused::ReadOnly => "the array is served read-only, and a scrub rewrites what cannot be read",
        ScrubRefused::NoParity => {
            "no parity is left to compare: members are missing, or the volume is stopping; see `uraid status`"
        }
        ScrubRefused::Busy => "a resync, a rebuild or a scrub is under way or due; see `uraid status`",
    }
}
