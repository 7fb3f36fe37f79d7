//! What operators may ask of a running daemon, and how it is done.
//!
//! Everything about data is decided by the array: this asks it, and refuses by itself only what the array
//! cannot know (that a device holds something, or is a member under another name).

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use md_format::{SECTOR, Superblock, Uuid, free_dev_number, spare_superblock};
use tokio::sync::{mpsc, oneshot, watch};
use uraid_blockio::{Member, OpenOptions};
use uraid_core::{ArrayState as CoreState, MemberId, MemberStanding};
use uraid_shard::{AddError, FailError, MemberName, ShardHandle, ShardStatus};

use super::members::{Claims, open_one};
use super::picture::{Facts, status};
use crate::control::protocol::{Answer, ControlError, ErrorCode, Request};
use crate::control::server::ControlHandler;
use crate::device::{Access, Device, identity_of};
use crate::{human, probe, scan};

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
    /// How members are opened.
    pub(super) options: OpenOptions,
    /// Asks the daemon to stop.
    pub(super) stop: mpsc::Sender<()>,
    /// Tells when it has.
    pub(super) ending: watch::Receiver<Ending>,
}

impl ControlHandler for Operator {
    async fn handle(&self, request: Request) -> Result<Answer, ControlError> {
        match request {
            Request::Status => {
                let shard = self.look().await?;
                Ok(Answer::Status(Box::new(status(&self.facts, &shard))))
            }
            Request::Fail { member } => self.fail(&member).await.map(Answer::Message),
            Request::Add { member, force } => self.add(member, force).await.map(Answer::Message),
            Request::Stop => self.stop().await.map(Answer::Message),
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
        answer(told).await?.map_err(|error| fail_error(path, &error))?;
        let picture = self.look().await?;
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
        let picture = self.look().await?;
        self.check_addable(&picture, &path)?;
        let uuid = Uuid(*uuid::Uuid::new_v4().as_bytes());
        let (template, options, wanted) = (self.facts.superblock.clone(), self.options, path.clone());
        // wipefs and reading take their time, which is not the other operators'.
        let prepared =
            tokio::task::spawn_blocking(move || prepare(&wanted, force, &template, uuid, options)).await;
        let (device, member) = prepared.map_err(|error| ControlError::new(ErrorCode::Failed, error))??;
        let (tell, told) = oneshot::channel();
        let asked = self.shard.add(member, uuid.0, move |result| {
            let _ = tell.send(result);
        });
        asked.map_err(|_| stopping())?;
        let id = answer(told).await?.map_err(|error| add_error(&path, &error))?;
        self.claims().keep(id, device);
        let now = self.look().await?;
        let standing = now.array.members.iter().find(|report| report.member == id).map(|r| r.standing);
        let what = if standing == Some(MemberStanding::Spare) && now.array.missing == 0 {
            "it is a spare until a member fails"
        } else {
            "its rebuild begins; `uraid status` shows how far it is"
        };
        Ok(format!("{} is added: {what}", path.display()))
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
        Ok(())
    }

    /// Asks for the stop and waits for it: the answer is given when all is done.
    async fn stop(&self) -> Result<String, ControlError> {
        // A stop that was asked for twice is one stop.
        let _ = self.stop.try_send(());
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await.map_err(|_| stopping())?.clone();
        match ended {
            Some(Ok(text)) => Ok(text),
            Some(Err(text)) => Err(ControlError::new(ErrorCode::Failed, text)),
            None => Err(stopping()),
        }
    }
}

async fn answer<T>(told: oneshot::Receiver<T>) -> Result<T, ControlError> {
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

fn stopping() -> ControlError {
    ControlError::new(ErrorCode::Stopping, "the daemon is stopping")
}

fn refused(text: String) -> ControlError {
    ControlError::new(ErrorCode::Refused, text)
}

fn fail_error(path: &Path, error: &FailError) -> ControlError {
    let code = match error {
        FailError::Unknown => ErrorCode::NotFound,
        FailError::Refused(_) => ErrorCode::Refused,
    };
    ControlError::new(code, format!("{}: {error}", path.display()))
}

fn add_error(path: &Path, error: &AddError) -> ControlError {
    let code = match error {
        AddError::Attach(_) => ErrorCode::Failed,
        AddError::Refused(_) | AddError::TooMany => ErrorCode::Refused,
        AddError::Stopping => ErrorCode::Stopping,
    };
    ControlError::new(code, format!("{}: {error}", path.display()))
}

/// Makes sure that a device may and can become a member, removes the signatures on it, and opens it.
fn prepare(
    path: &Path,
    force: bool,
    array: &Superblock,
    uuid: Uuid,
    options: OpenOptions,
) -> Result<(Device, Member), ControlError> {
    let failed = |why: String| ControlError::new(ErrorCode::Failed, format!("{}: {why}", path.display()));
    let device = Device::claim(path, Access::Write).map_err(|error| failed(error.to_string()))?;
    check_size(&device, array, uuid)?;
    // What a former member of this very array holds, the array has and newer.
    let former = scan::superblock(&device).is_ok_and(|found| found.set_uuid() == array.set_uuid());
    if !force && !former {
        let findings = probe::findings(&device).map_err(|error| failed(error.to_string()))?;
        if !findings.is_empty() {
            return Err(refused(probe::refusal(&[(path.to_owned(), findings)])));
        }
    }
    let member = open_one(&device, options).map_err(|why| ControlError::new(ErrorCode::Failed, why))?;
    wipe(&device).map_err(|why| failed(format!("its old signatures cannot be removed: {why}")))?;
    Ok((device, member))
}

/// The array checks it again; here it is before anything is written.
fn check_size(device: &Device, array: &Superblock, uuid: Uuid) -> Result<(), ControlError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let Some(number) = free_dev_number(array, &[]) else {
        return Err(refused("the array has no free member number".to_owned()));
    };
    match spare_superblock(array, device.sectors(), uuid, number, now) {
        Ok(_) => Ok(()),
        Err(md_format::SpareError::TooSmall { needed, .. }) => Err(refused(format!(
            "{} is too small: it has {}, the array needs {} of each member",
            device.path().display(),
            human::bytes(device.bytes()),
            human::bytes(needed.saturating_mul(SECTOR)),
        ))),
        Err(error) => Err(refused(format!("{}: {error}", device.path().display()))),
    }
}

/// Overwrites all signatures, and with them copies that show only when the first is gone.
fn wipe(device: &Device) -> Result<(), String> {
    const ROUNDS_MAX: usize = 32;
    const SIGNATURE_BYTES_MAX: u64 = 1 << 20;
    for _ in 0..ROUNDS_MAX {
        let signatures = probe::signatures(device).map_err(|error| error.to_string())?;
        if signatures.is_empty() {
            return device.file().sync_all().map_err(|error| error.to_string());
        }
        for signature in signatures {
            let length = usize::try_from(signature.bytes.clamp(1, SIGNATURE_BYTES_MAX)).unwrap_or(1);
            let written = device.file().write_all_at(&vec![0; length], signature.offset);
            written.map_err(|error| error.to_string())?;
        }
    }
    Err("others keep appearing; clear the device with `wipefs --all` first".to_owned())
}
