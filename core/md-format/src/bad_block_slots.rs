//! A bad-block log of several sectors, changed entry by entry so that a power cut takes none that is still needed.
//!
//! Each entry that is wanted gets a slot, and an old entry goes only once all that is wanted of it is durable in other
//! slots, or in its own by the same write. So it does not matter which of a step's slots were written.

use crate::bad_blocks::{END, ENTRY, entry_bytes};
use crate::superblock::BadBlockLog;
use std::collections::BTreeSet;
use std::ops::Range;

/// The slots of a log on its way to other entries, all in units of the log.
pub(crate) struct Slots<'a> {
    log: BadBlockLog,
    /// What stands in each slot; nothing from the end on.
    slots: Vec<Option<Range<u64>>>,
    /// What the log is to list: ascending, none overlaps another, as many as there are slots at most, at least one.
    wanted: &'a [Range<u64>],
    done: bool,
}

impl<'a> Slots<'a> {
    pub(crate) fn read(log: BadBlockLog, bytes: &[u8], wanted: &'a [Range<u64>]) -> Self {
        let values = bytes.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let values = values.take_while(|&value| value != END);
        let mut slots: Vec<_> = values.map(|v| Some(v >> 10..(v >> 10) + (v & 0x3ff))).collect();
        slots.resize(log.bytes() / ENTRY, None);
        Slots { log, slots, wanted, done: false }
    }

    /// The bytes of the log after the next step; `None` when all is done, `Some(None)` if no step is left that loses
    /// nothing, which ends it, too.
    pub(crate) fn next_step(&mut self) -> Option<Option<Vec<u8>>> {
        if self.done {
            return None;
        }
        let homes = self.homes();
        if homes.iter().all(Option::is_some) {
            self.done = true;
            self.tidy(&homes);
            return Some(Some(self.bytes()));
        }
        let moved = self.settle(homes);
        self.done = !moved;
        Some(moved.then(|| self.bytes()))
    }

    /// In which slot each of the wanted entries is durable, exactly as wanted.
    fn homes(&self) -> Vec<Option<usize>> {
        let mut homes = vec![None; self.wanted.len()];
        for (index, slot) in self.slots.iter().enumerate().rev() {
            let Some(slot) = slot else { continue };
            if let Ok(entry) = self.wanted.binary_search_by_key(&slot.start, |entry| entry.start)
                && self.wanted.get(entry) == Some(slot)
            {
                homes[entry] = Some(index);
            }
        }
        homes
    }

    /// Which of the wanted entries share units with a slot.
    fn in_slot(&self, slot: &Range<u64>) -> Range<usize> {
        let from = self.wanted.partition_point(|entry| entry.end <= slot.start);
        from..self.wanted.partition_point(|entry| entry.start < slot.end).max(from)
    }

    /// Writes entries that have no home over what is not needed any more. False if there is no room for any.
    fn settle(&mut self, homes: Vec<Option<usize>>) -> bool {
        let mut taken = vec![false; self.slots.len()];
        homes.iter().flatten().for_each(|home| taken[*home] = true);
        let mut placed: Vec<bool> = homes.iter().map(Option::is_some).collect();
        let (mut free, mut moved) = (Vec::new(), false);
        let mut seen = BTreeSet::new();
        for (index, taken) in taken.iter().enumerate() {
            let slot = self.slots[index].clone().unwrap_or(0..0);
            // Of slots that say the same one is enough.
            let again = !*taken && !seen.insert((slot.start, slot.end));
            let mut homeless = self.in_slot(&slot).filter(|entry| homes[*entry].is_none());
            match (homeless.next(), homeless.next()) {
                _ if *taken => {}
                _ if again => free.push(index),
                (None, _) => free.push(index),
                // All that is still needed of this slot is a part of that one entry, which takes its place.
                (Some(entry), None) if !placed[entry] => {
                    self.slots[index] = Some(self.wanted[entry].clone());
                    (placed[entry], moved) = (true, true);
                }
                _ => {}
            }
        }
        let homeless = placed.iter().enumerate().filter(|(_, placed)| !**placed);
        for ((entry, _), index) in homeless.zip(free) {
            self.slots[index] = Some(self.wanted[entry].clone());
            moved = true;
        }
        moved
    }

    /// All that is wanted is durable: nothing else stays, and what is behind the last of it is behind the end.
    fn tidy(&mut self, homes: &[Option<usize>]) {
        let last = homes.iter().flatten().max().copied().unwrap_or(0);
        let mut is_home = vec![false; self.slots.len()];
        homes.iter().flatten().for_each(|home| is_home[*home] = true);
        for (index, (slot, is_home)) in self.slots.iter_mut().zip(is_home).enumerate() {
            if !is_home {
                *slot = self.wanted.first().filter(|_| index < last).cloned();
            }
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.slots.iter().flatten().flat_map(entry_bytes).collect();
        bytes.resize(self.log.bytes(), 0xff);
        bytes
    }
}
