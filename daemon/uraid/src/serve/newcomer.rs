//! A device on its way into a running array.
//!
//! Everything that can be known is asked first; the signatures on it go last, in a way that can be taken
//! back, since only the array has the final word. The claim is never without an owner: it is this side's
//! until the array has answered, however long that takes, and the array's member's afterwards.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use md_format::{DevRole, SECTOR, Superblock, Uuid, free_dev_number, spare_superblock};
use tokio::sync::oneshot;
use uraid_blockio::{Member, OpenOptions};
use uraid_core::MemberId;
use uraid_shard::AddError;

use super::members::{Claims, open_one};
use super::operator::refused;
use crate::control::protocol::{ControlError, ErrorCode};
use crate::device::{Access, Device};
use crate::journal::Journal;
use crate::{human, probe, scan};

/// How long writes of an earlier life of the device may take to end.
const WRITERS_GONE: Duration = Duration::from_secs(10);

/// A device that may become a member and is large enough, claimed and opened. Nothing was written to it.
#[derive(Debug)]
pub(super) struct Newcomer {
    device: Device,
    member: Member,
    former: Option<Box<Superblock>>,
}

impl Newcomer {
    /// Looks at a device. `array` is any superblock of the array, `uuid` the device's identity to be.
    ///
    /// # Errors
    /// It cannot be claimed or opened, is too small, or holds something and there is no `force`.
    pub(super) fn examine(
        path: &Path,
        force: bool,
        array: &Superblock,
        uuid: Uuid,
        options: OpenOptions,
    ) -> Result<Self, ControlError> {
        let device = Device::claim(path, Access::Write).map_err(|error| failed(path, error))?;
        device.wait_for_writers(WRITERS_GONE).map_err(|error| failed(path, error))?;
        check_size(&device, array, uuid)?;
        // What a former member of this very array holds, the array has and newer; see `check_not_newer`.
        let former = scan::superblock(&device).ok().filter(|found| found.set_uuid() == array.set_uuid());
        if !force && former.is_none() {
            let findings = probe::findings(&device).map_err(|error| failed(path, error))?;
            if !findings.is_empty() {
                return Err(refused(probe::refusal(&[(path.to_owned(), findings)])));
            }
        }
        let member = open_one(&device, options).map_err(|why| ControlError::new(ErrorCode::Failed, why))?;
        // Whoever forces it wants nothing of what is on it.
        Ok(Newcomer { device, member, former: former.filter(|_| !force).map(Box::new) })
    }

    /// The superblock that it had as a member of this very array, if what it holds may be used.
    pub(super) fn former(&self) -> Option<Box<Superblock>> {
        self.former.clone()
    }

    /// Whether the array has what this former member holds. With more events than the array ever had, it was part of
    /// it elsewhere, and the array here is the old one. `events` is the array's count.
    ///
    /// # Errors
    /// It holds what is newer.
    pub(super) fn check_not_newer(&self, events: u64) -> Result<(), ControlError> {
        let Some(old) = self.former.as_deref().filter(|old| old.events() > events) else { return Ok(()) };
        if !matches!(old.role(), DevRole::Active(_)) {
            return Ok(());
        }
        Err(refused(format!(
            "{}: it is a member of this array that was written after the array was: it counts {} events, the array {}. \
             The members that are served here are the old ones. To go on with the newer ones stop the array and start \
             it with them; `--force` gives up what is on this device",
            self.device.path().display(),
            old.events(),
            events,
        )))
    }

    /// Removes the signatures on it, durably. What lies in the data of a former member stays: it is a part of
    /// what the array holds, and if the member comes back by the bitmap nobody writes it again.
    ///
    /// # Errors
    /// They cannot be removed; the device is as it was.
    pub(super) fn wipe(self) -> Result<(Wiped, Member), ControlError> {
        let path = self.device.path().to_owned();
        let mut journal = Journal::new();
        journal.push(self.device);
        let data = self.former.map_or(0..0, |former| data_of(&former));
        let wiped = journal.wipe_outside(0, &data).and_then(|()| journal.sync());
        wiped.map_err(|why| failed(&path, format!("its old signatures cannot be removed: {why}")))?;
        Ok((Wiped(Some(journal)), self.member))
    }
}

/// The bytes of a member that belong to what the array holds.
fn data_of(superblock: &Superblock) -> Range<u64> {
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    let start = superblock.data_offset();
    bytes(start)..bytes(start.saturating_add(superblock.size_sectors()))
}

fn failed(path: &Path, why: impl std::fmt::Display) -> ControlError {
    ControlError::new(ErrorCode::Failed, format!("{}: {why}", path.display()))
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

/// A claimed device without signatures, and what they were. Dropped undecided it stays without them: the
/// array may have written its own by then.
#[derive(Debug)]
pub(super) struct Wiped(Option<Journal>);

impl Wiped {
    /// It is a member now: its claim.
    fn joined(mut self) -> Option<Device> {
        self.0.take().and_then(|journal| journal.keep().pop())
    }

    /// It is not and will not be: puts the signatures back and gives the claim up.
    fn turned_away(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        if let Some(journal) = self.0.take() {
            journal.keep();
        }
    }
}

/// Waits for the array's answer as long as it takes, does with the device what it says, and passes it on to
/// whoever still listens. The array may be late, but what it was asked stays asked: giving the claim up
/// earlier would let others have a device that is about to become a member.
pub(super) async fn settle(
    told: oneshot::Receiver<Result<MemberId, AddError>>,
    wiped: Wiped,
    claims: Arc<Mutex<Claims>>,
    tell: oneshot::Sender<Result<MemberId, AddError>>,
) {
    let answer = told.await;
    if let Ok(Ok(id)) = &answer {
        if let Some(device) = wiped.joined() {
            // A list of open files is sound whatever happened to who held it.
            claims.lock().unwrap_or_else(PoisonError::into_inner).keep(*id, device);
        }
    } else {
        // It can only fail by panicking, which is told.
        let _ = tokio::task::spawn_blocking(move || wiped.turned_away()).await;
    }
    // Without an answer the volume has ended before it came to the question; `tell` is dropped for that.
    if let Ok(answer) = answer {
        let _ = tell.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::path::PathBuf;

    use md_format::{CreateParams, Layout, Level, plan_create};
    use uraid_core::AddRefused;

    const BYTES: u64 = 16 << 20;
    /// Where `used` has one.
    const SIGNATURE: std::ops::Range<usize> = 4096..4100;

    /// A superblock of an array with members of this size.
    fn array(set_uuid: Uuid) -> Superblock {
        array_of(set_uuid, md_format::Minor::V2)
    }

    fn array_of(set_uuid: Uuid, minor: md_format::Minor) -> Superblock {
        let params = CreateParams {
            level: Level::Raid5,
            layout: Layout::default_for(Level::Raid5),
            chunk_sectors: 128,
            name: "vol",
            set_uuid,
            device_uuids: &[Uuid([2; 16]), Uuid([3; 16]), Uuid([4; 16])],
            members: &[BYTES / SECTOR; 3],
            size_sectors: None,
            clean: true,
            now: 1_700_000_000,
            minor,
            bitmap: md_format::IntentBitmap::None,
            ppl: false,
        };
        plan_create(&params).unwrap().remove(0)
    }

    /// A member of another array.
    fn used(directory: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
        holding(directory, &array(Uuid([5; 16])))
    }

    fn holding(directory: &tempfile::TempDir, superblock: &Superblock) -> (PathBuf, Vec<u8>) {
        let path = directory.path().join("m");
        let mut bytes = vec![0; BYTES as usize];
        let superblock = superblock.encode();
        bytes[SIGNATURE.start..][..superblock.len()].copy_from_slice(&superblock);
        std::fs::write(&path, &bytes).unwrap();
        (path, bytes)
    }

    fn examine(path: &Path, force: bool) -> Result<Newcomer, ControlError> {
        examine_for(path, force, &array(Uuid([1; 16])))
    }

    fn examine_for(path: &Path, force: bool, array: &Superblock) -> Result<Newcomer, ControlError> {
        let options = OpenOptions { exclusive: false, ..OpenOptions::default() };
        Newcomer::examine(path, force, array, Uuid([9; 16]), options)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn is_claimed(path: &Path) -> bool {
        Device::claim(path, Access::Write).is_err()
    }

    fn is_wiped(path: &Path) -> bool {
        std::fs::read(path).unwrap()[SIGNATURE] == [0; 4]
    }

    type Answers = oneshot::Receiver<Result<MemberId, AddError>>;

    /// Has a wiped device settled that the shard answers to with `answer`, after some turns in which
    /// nobody waits for the answer any more.
    fn settle_late(path: &Path, answer: Option<Result<MemberId, AddError>>) -> (Claims, Answers) {
        let (wiped, _member) = examine(path, true).unwrap().wipe().unwrap();
        assert!(is_wiped(path));
        let claims = Arc::new(Mutex::new(Claims::default()));
        let shared = Arc::clone(&claims);
        let (tell, answers) = oneshot::channel();
        block_on(async move {
            let (shard, told) = oneshot::channel();
            let settling = tokio::spawn(settle(told, wiped, shared, tell));
            for _ in 0..10 {
                tokio::task::yield_now().await;
                assert!(is_claimed(path), "the claim does not wait for the answer");
            }
            match answer {
                Some(answer) => shard.send(answer).unwrap(),
                None => drop(shard),
            }
            settling.await.unwrap();
        });
        (Arc::into_inner(claims).unwrap().into_inner().unwrap(), answers)
    }

    #[test]
    fn looking_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = used(&directory);
        assert_eq!(examine(&path, false).unwrap_err().code, ErrorCode::Refused);
        drop(examine(&path, true).unwrap());
        assert!(std::fs::read(&path).unwrap() == bytes);
    }

    /// A former member with its superblock at the end begins with data, and these may look like anything: here
    /// like a member of an array that is kept in the array.
    #[test]
    fn what_lies_in_the_data_of_a_former_member_stays() {
        for force in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let (path, mut bytes) = used(&directory);
            let own = array_of(Uuid([1; 16]), md_format::Minor::V0);
            let at = (own.super_offset() * SECTOR) as usize;
            bytes[SIGNATURE.start..][8..12].fill(0xff);
            bytes[at..][..own.encode().len()].copy_from_slice(&own.encode());
            std::fs::write(&path, &bytes).unwrap();
            let newcomer = examine_for(&path, force, &own).unwrap();
            assert_eq!(newcomer.former().is_some(), !force);
            let (_wiped, _member) = newcomer.wipe().unwrap();
            let now = std::fs::read(&path).unwrap();
            assert_eq!(now[at..][..4], [0; 4], "its own superblock is gone until the array writes another");
            bytes[at..][..4].fill(0);
            assert_eq!(is_wiped(&path), force);
            assert!(force || now == bytes, "its data have changed");
        }
    }

    #[test]
    fn a_member_that_is_newer_than_the_array_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let mut newer = array(Uuid([1; 16]));
        newer.set_events(10);
        let (path, bytes) = holding(&directory, &newer);
        let newcomer = examine(&path, false).unwrap();
        newcomer.check_not_newer(10).unwrap();
        let refused = newcomer.check_not_newer(9).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Refused);
        assert!(refused.message.contains("10 events, the array 9"), "{}", refused.message);
        drop(newcomer);
        examine(&path, true).unwrap().check_not_newer(9).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }

    #[test]
    fn a_late_yes_leaves_the_claim_with_the_member() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = used(&directory);
        let (claims, mut answers) = settle_late(&path, Some(Ok(MemberId(7))));
        assert!(is_claimed(&path));
        let identity = crate::device::identity_of(&path).unwrap();
        assert_eq!(claims.find(identity), Some(MemberId(7)));
        assert_eq!(answers.try_recv().unwrap().unwrap(), MemberId(7));
        drop(claims);
        assert!(!is_claimed(&path));
    }

    #[test]
    fn a_no_gives_back_what_was_wiped_and_the_claim() {
        for answer in [Some(Err(AddError::Refused(AddRefused::ReadOnly))), None] {
            let directory = tempfile::tempdir().unwrap();
            let (path, bytes) = used(&directory);
            let answered = answer.is_some();
            let (claims, mut answers) = settle_late(&path, answer);
            assert!(!is_claimed(&path));
            assert!(std::fs::read(&path).unwrap() == bytes);
            assert_eq!(answers.try_recv().is_ok(), answered);
            drop(claims);
        }
    }

    #[test]
    fn an_end_without_a_decision_overwrites_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = used(&directory);
        let (wiped, member) = examine(&path, true).unwrap().wipe().unwrap();
        drop((wiped, member));
        assert!(is_wiped(&path));
    }
}
