//! The bytes that are served, a count of what was asked for, and a gate that holds requests up.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

/// What is counted, by name.
type Counts = BTreeMap<&'static str, u64>;

pub(crate) struct Memory {
    /// In a file, so that a server that was killed leaves it to the next one.
    file: File,
    counts: Mutex<Counts>,
    held: Mutex<bool>,
    released: Condvar,
}

/// No thread panics while it holds one of these.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// What is in the file, or zeroes.
    pub(crate) fn open(path: &str, size: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(size)?;
        Ok(Memory { file, counts: Mutex::default(), held: Mutex::new(false), released: Condvar::new() })
    }

    /// A table with one partition from sector 2048 to the end.
    pub(crate) fn partition(&self, size: u64) -> Result<()> {
        let sectors = u32::try_from(size / 512 - 2048)?;
        let mut table = [0; 66];
        table[4] = 0x83;
        table[8..12].copy_from_slice(&2048u32.to_le_bytes());
        table[12..16].copy_from_slice(&sectors.to_le_bytes());
        table[64..].copy_from_slice(&[0x55, 0xaa]);
        Ok(self.file.write_all_at(&table, 446)?)
    }

    /// Whether the range is all there.
    fn holds(&self, offset: u64, len: usize) -> bool {
        let size = self.file.metadata().map(|metadata| metadata.len());
        let end = offset.checked_add(len as u64);
        matches!((size, end), (Ok(size), Some(end)) if end <= size)
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        self.holds(offset, into.len()) && self.file.read_exact_at(into, offset).is_ok()
    }

    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> bool {
        self.holds(offset, from.len()) && self.file.write_all_at(from, offset).is_ok()
    }

    pub(crate) fn fill(&self, offset: u64, mut len: usize, byte: u8) -> bool {
        let (piece, mut at) = ([byte; 1 << 16], offset);
        if !self.holds(offset, len) {
            return false;
        }
        while len > 0 {
            let now = len.min(piece.len());
            if self.file.write_all_at(piece.get(..now).unwrap_or(&piece), at).is_err() {
                return false;
            }
            (len, at) = (len - now, at + now as u64);
        }
        true
    }

    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        Ok(self.file.set_len(size)?)
    }

    pub(crate) fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    pub(crate) fn count_longest(&self, what: &'static str, value: u64) {
        let mut counts = lock(&self.counts);
        let longest = counts.entry(what).or_default();
        *longest = value.max(*longest);
    }

    /// The counts since the last time.
    pub(crate) fn take_counts(&self) -> String {
        let counts = std::mem::take(&mut *lock(&self.counts));
        counts.iter().map(|(what, count)| format!("{what} {count}\n")).collect()
    }

    /// Requests wait from now on, or do not any more.
    pub(crate) fn hold(&self, hold: bool) {
        *lock(&self.held) = hold;
        self.released.notify_all();
    }

    pub(crate) fn wait_while_held(&self) {
        let held = lock(&self.held);
        drop(self.released.wait_while(held, |held| *held));
    }
}
