//! What operators may ask of a running daemon, and how it is done.
//!
//! Everything about data is decided by the array: this asks it, and refuses by itself only what the array
//! cannot know (that a device holds something, or is a member under another name).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use md_format::Uuid;
use tokio::sync::{mpsc, oneshot, watch};
use uraid_blockio::OpenOptions;
use uraid_core::{ArrayState as CoreState, MemberId, MemberStanding};
use uraid_shard::{AddError, FailError, MemberName, ShardHandle, ShardStatus};

use super::device::{DetachError, Device, backend, refuse_members_on_own_device};
use super::handover::manager_is_there;
use super::members::Claims;
use super::newcomer::{self, Newcomer};
use super::picture::{Facts, status};
use super::recent::Recent;
use crate::control::protocol::{
    Answer, ControlError, DeviceStatus, ErrorCode, Request, Status, mkfs_xfs_hint,
};
use crate::control::server::ControlHandler;
use crate::device::identity_of;

/// How long the shard may take to answer. It is slow only while a member keeps a system call.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the daemon ended, for whoever asked for it: what to say, or what went wrong.
pub(super) type Ending = Option<Result<String, String>>;

/// Answers operators.
pub(super) struct Operator {
    /// The array.
    pub(super) shard: ShardHandle,
    /// What does not change.
    pub(super) facts: Facts,
    /// The claims on its members.
    pub(super) claims: Arc<Mutex<Claims>>,
    /// What clients did lately.
    pub(super) recent: Recent,
    /// How members are opened.
    pub(super) options: OpenOptions,
    /// The block device, if the volume is one.
    pub(super) device: Option<Device>,
    /// Asks the daemon to stop.
    pub(super) stop: mpsc::Sender<()>,
    /// Asks it to hand over.
    pub(super) hand_over: mpsc::Sender<()>,
    /// Tells when it has.
    pub(super) ending: watch::Receiver<Ending>,
}

impl ControlHandler for Operator {
    async fn handle(&self, request: Request) -> Result<Answer, ControlError> {
        match request {
            Request::Status => {
                let shard = self.look().await?;
                let recent = self.recent.of(&shard);
                let device = self.device_status(&shard);
                Ok(Answer::Status(Box::new(Status { recent, device, ..status(&self.facts, &shard) })))
            }
            Request::Fail { member } => self.fail(&member).await.map(Answer::Message),
            Request::Add { member, force } => self.add(member, force).await.map(Answer::Message),
            Request::Scrub { repair, wait } => self.scrub(repair, wait).await.map(Answer::Message),
            Request::Stop { force } => self.stop(force).await.map(Answer::Message),
            Request::HandOver => self.hand_over().await.map(Answer::Message),
        }
    }
}

impl Operator {
    /// A picture of the shard; gives up claims on members that have failed since the last one.
    pub(super) async fn look(&self) -> Result<ShardStatus, ControlError> {
        let (tell, told) = oneshot::channel();
        let asked = self.shard.status(move |picture| {
            let _ = tell.send(picture);
        });
        asked.map_err(|_| stopping())?;
        let picture = answer(told).await?;
        let members = &picture.array.members;
        let failed = |id: MemberId| {
            let report = members.iter().find(|report| report.member == id);
            report.is_some_and(|report| report.standing == MemberStanding::Failed)
        };
        self.claims().release(failed);
        Ok(picture)
    }

    fn claims(&self) -> std::sync::MutexGuard<'_, Claims> {
        // A list of open files is sound whatever happened to who held it.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fail(&self, path: &Path) -> Result<String, ControlError> {
        self.look().await?;
        let (tell, told) = oneshot::channel();
        let asked = self.shard.fail(self.name_of(path), move |result| {
            let _ = tell.send(result);
        });
        asked.map_err(|_| stopping())?;
        let result = answer(told).await?;
        let picture = self.look().await?;
        result.map_err(|error| fail_error(path, &error, &picture))?;
        let (left, of) =
            (picture.geometry.members().saturating_sub(picture.array.missing), picture.geometry.members());
        Ok(format!("{} is failed; {left} of {of} members are in sync", path.display()))
    }

    /// A member under the path by which it was opened, or under another one of the same device.
    fn name_of(&self, path: &Path) -> MemberName {
        let known = identity_of(path).and_then(|identity| self.claims().find(identity));
        known.map_or_else(|| MemberName::Path(path.to_owned()), MemberName::Id)
    }

    async fn add(&self, path: PathBuf, force: bool) -> Result<String, ControlError> {
        self.check_addable(&self.look().await?, &path)?;
        let uuid = Uuid(*uuid::Uuid::new_v4().as_bytes());
        let (template, options, wanted) = (self.facts.superblock.clone(), self.options, path.clone());
        let newcomer =
            in_background(move || Newcomer::examine(&wanted, force, &template, uuid, options)).await?;
        // That took its time, and a device is not to lose what it holds to an array that cannot use it. What
        // happens between this look and the array's answer is taken back when the answer is no.
        let picture = self.look().await?;
        self.check_addable(&picture, &path)?;
        newcomer
            .check_not_newer(picture.array.members.iter().map(|report| report.events).max().unwrap_or(0))?;
        let former = newcomer.former();
        let (wiped, member) = in_background(move || newcomer.wipe()).await?;
        let (tell, told) = oneshot::channel();
        // If the shard is gone, `tell` is dropped, which is an answer too.
        let _ = self.shard.add(member, uuid.0, former, move |result| {
            let _ = tell.send(result);
        });
        let (tell_us, settled) = oneshot::channel();
        tokio::spawn(newcomer::settle(told, wiped, Arc::clone(&self.claims), tell_us));
        let id = answer(settled).await.map_err(|error| undecided(&path, error))?;
        let id = id.map_err(|error| add_error(&path, &error))?;
        let now = self.look().await?;
        let report = now.array.members.iter().find(|report| report.member == id);
        let standing = report.map(|report| report.standing);
        let what = if report.is_some_and(|report| report.returning) {
            "it was away, and what was written meanwhile is copied; `uraid status` shows how far it is"
        } else if standing == Some(MemberStanding::InSync) {
            "it has what was written while it was away, and is in sync"
        } else if standing != Some(MemberStanding::Rebuilding) && now.array.missing == 0 {
            "it is a spare until a member fails"
        } else {
            "its rebuild begins; `uraid status` shows how far it is"
        };
        let then =
            "write it into the configuration: the next start takes what is listed there, and nothing else";
        Ok(format!("{} is added: {what}\n{then}", path.display()))
    }

    fn check_addable(&self, picture: &ShardStatus, path: &Path) -> Result<(), ControlError> {
        let refuse = |why: &str| Err(refused(format!("{}: {why}", path.display())));
        if picture.stopping {
            return Err(stopping());
        }
        if self.facts.read_only {
            return refuse("the array is served read-only, so nothing can be added");
        }
        if picture.array.state == CoreState::Broken {
            return refuse(
                "more members are gone than parity covers, so there is nothing to rebuild it from",
            );
        }
        if identity_of(path).is_some_and(|identity| self.claims().find(identity).is_some()) {
            return refuse("it is a member of this array already");
        }
        refuse_members_on_own_device([path], &backend(&self.facts.name)).map_err(refused)?;
        Ok(())
    }

    fn device_status(&self, shard: &ShardStatus) -> Option<DeviceStatus> {
        let attached = self.device.as_ref()?.attached()?;
        let geometry = &shard.geometry;
        let link = Path::new("/dev/uraid").join(&self.facts.name);
        // Made by a rule of udev's, which may not be installed.
        let leads_there = std::fs::canonicalize(&link).is_ok_and(|to| to == attached.node);
        Some(DeviceStatus {
            path: attached.node,
            links: if leads_there { vec![link] } else { Vec::new() },
            mkfs_xfs_hint: mkfs_xfs_hint(geometry.chunk_bytes(), geometry.data().into()),
        })
    }

    /// Detaches the device, unless somebody uses it, asks for the stop and waits for it: the answer is given
    /// when all is done.
    async fn stop(&self, force: bool) -> Result<String, ControlError> {
        // Also while it is being attached, or attached again after a crash: it may be used all the time.
        if let Some(device) = &self.device {
            device.detach(force).await.map_err(|error| match error {
                DetachError::Held(who) => {
                    refused(format!("{who}; end that first (`uraid stop --force` would take its disk away)"))
                }
                DetachError::Failed(why) => ControlError::new(ErrorCode::Failed, why),
            })?;
        }
        // A stop that was asked for twice is one stop.
        let _ = self.stop.try_send(());
        self.end().await
    }

    /// Asks for the hand-over and waits until everything is with the service manager.
    async fn hand_over(&self) -> Result<String, ControlError> {
        if !manager_is_there() {
            return Err(refused(
                "no service manager is there to keep the connections for the next process; `uraid stop` stops \
                 this one"
                    .to_owned(),
            ));
        }
        let _ = self.hand_over.try_send(());
        self.end().await
    }

    async fn end(&self) -> Result<String, ControlError> {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await.map_err(|_| stopping())?.clone();
        match ended {
            Some(Ok(text)) => Ok(text),
            Some(Err(text)) => Err(ControlError::new(ErrorCode::Failed, text)),
            None => Err(stopping()),
        }
    }
}

/// Does what takes its time elsewhere: it is not the other operators' time.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ControlError::new(ErrorCode::Failed, error))?
}

pub(super) async fn answer<T>(told: oneshot::Receiver<T>) -> Result<T, ControlError> {
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(stopping()),
        Err(_) => Err(ControlError::new(
            ErrorCode::Failed,
            "the volume's thread does not answer; most likely a member does not finish an operation (see the \
             kernel's log)",
        )),
    }
}

pub(super) fn stopping() -> ControlError {
    ControlError::new(ErrorCode::Stopping, "the daemon is stopping")
}

/// Says what an add that was not answered in time may still come to.
fn undecided(path: &Path, mut error: ControlError) -> ControlError {
    if error.code == ErrorCode::Failed {
        let path = path.display();
        error.message = format!(
            "{path}: {}; it is kept for this array and will be added when the thread comes to it, so look at \
             `uraid status` before using it for anything else",
            error.message
        );
    }
    error
}

pub(super) fn refused(text: String) -> ControlError {
    ControlError::new(ErrorCode::Refused, text)
}

fn fail_error(path: &Path, error: &FailError, now: &ShardStatus) -> ControlError {
    let path = path.display();
    match error {
        FailError::Unknown => {
            let members: Vec<_> =
                now.members.iter().map(|member| member.path.display().to_string()).collect();
            let text = format!("{path}: {error}; its members are {}", members.join(", "));
            ControlError::new(ErrorCode::NotFound, text)
        }
        FailError::Refused(_) => ControlError::new(ErrorCode::Refused, format!("{path}: {error}")),
    }
}

fn add_error(path: &Path, error: &AddError) -> ControlError {
    let code = match error {
        AddError::Attach(_) => ErrorCode::Failed,
        AddError::Refused(_) | AddError::TooMany => ErrorCode::Refused,
        AddError::Stopping => ErrorCode::Stopping,
    };
    ControlError::new(code, format!("{}: {error}", path.display()))
}
