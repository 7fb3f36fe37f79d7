//! Telling when the last write of a process that died has ended.
//!
//! A process that is killed leaves operations behind that the kernel and the device still carry out. Its
//! record locks are gone by then, so whoever comes next could read a member, and write it, before such a
//! write lands. A `flock` is different: it belongs to the open file that the I/O goes through, every
//! operation in flight holds that file, and so it goes when the last of them has ended.
//!
//! Every [`Member`](crate::Member) that may be written holds such a lock, shared, so that it keeps nobody
//! away who does the same; udev takes shared ones, too, while it looks at a disk.

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

use nix::sys::statfs::{self, FsType};

/// How often it is looked whether a lock has gone; the kernel tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// File systems that make record locks of `flock` (linux/magic.h: NFS, SMB1, SMB2, Ceph, 9P). There it would
/// collide with the claim on the member, and it would not wait for operations.
const NOT_BY_OPEN_FILE: [FsType; 5] =
    [FsType(0x6969), FsType(0xff53_4d42), FsType(0xfe53_4d42), FsType(0x00c3_6400), FsType(0x0102_1997)];

/// Holds the lock for as long as the file is open. False if somebody has locked the file for himself.
pub(crate) fn hold(file: &File) -> io::Result<bool> {
    if !has_own_locks(file) {
        return Ok(true);
    }
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if cannot(&error) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Waits until no other open file of this file or device is held as a member: until everything that was
/// written through one has ended. `waiting` is called once if that does not come at once. False if it did not
/// come in time, or if somebody else keeps a `flock` on it. `file` keeps no lock.
///
/// # Errors
/// The lock cannot be asked for.
pub fn wait_for_writers(file: &File, within: Duration, waiting: impl FnOnce()) -> io::Result<bool> {
    if !has_own_locks(file) {
        return Ok(true);
    }
    let deadline = Instant::now() + within;
    let mut waiting = Some(waiting);
    loop {
        match file.try_lock() {
            Ok(()) => return file.unlock().map(|()| true),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) if cannot(&error) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn has_own_locks(file: &File) -> bool {
    !statfs::fstatfs(file).is_ok_and(|fs| NOT_BY_OPEN_FILE.contains(&fs.filesystem_type()))
}

/// A file system without locks.
fn cannot(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOLCK | libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, OpenOptions, create_sparse};

    #[test]
    fn members_of_others_are_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        create_sparse(&path, 1 << 20).unwrap();
        let file = File::open(&path).unwrap();
        let mut told = false;
        assert!(wait_for_writers(&file, Duration::ZERO, || told = true).unwrap() && !told);

        let options = OpenOptions { exclusive: false, ..OpenOptions::default() };
        let first = Member::open(&path, options).unwrap();
        let second = Member::open(&path, options).unwrap();
        drop(first);
        assert!(!wait_for_writers(&file, Duration::from_millis(20), || told = true).unwrap() && told);
        let waiter = std::thread::spawn(move || wait_for_writers(&file, Duration::from_secs(60), || {}));
        drop(second);
        assert!(waiter.join().unwrap().unwrap());

        let other = File::open(&path).unwrap();
        other.lock().unwrap();
        assert!(Member::open(&path, options).is_err(), "somebody has it for himself");
    }

    /// The lock is the open file's, not the process's: a copy of the descriptor keeps it.
    #[test]
    fn what_is_in_flight_keeps_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        create_sparse(&path, 1 << 20).unwrap();
        let options = OpenOptions { exclusive: false, ..OpenOptions::default() };
        let member = Member::open(&path, options).unwrap();
        let in_flight = member.file.try_clone().unwrap();
        drop(member);
        let file = File::open(&path).unwrap();
        assert!(!wait_for_writers(&file, Duration::ZERO, || {}).unwrap());
        drop(in_flight);
        assert!(wait_for_writers(&file, Duration::ZERO, || {}).unwrap());
    }
}
