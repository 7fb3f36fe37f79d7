//! A table whose entries are found by a name that is never given twice, in constant time.

/// Names an entry: where it is, and how often that place was used before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The key as a number.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key that became this number, or one that may name nothing.
    pub(crate) fn from_bits(bits: u64) -> Self {
        // Both halves are cut to what they hold.
        Key { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    used: bool,
    value: T,
}

/// The table. A value that is removed stays where it is, for the next one to use its memory.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    /// A new name, and its value: a default one, or what an earlier name left there.
    pub(crate) fn insert(&mut self) -> (Key, &mut T) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, used: false, value: T::default() });
            // Memory ends long before the numbers do.
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.used = true;
        (Key { index, generation: entry.generation }, &mut entry.value)
    }

    /// The value of this name.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.used && entry.generation == key.generation).then_some(&entry.value)
    }

    /// The value of this name.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.used && entry.generation == key.generation).then_some(&mut entry.value)
    }

    /// Forgets this name; returns the value to take from it what is not to be kept.
    pub(crate) fn remove(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if !entry.used || entry.generation != key.generation {
            return None;
        }
        entry.used = false;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(&mut entry.value)
    }

    /// The value that was just removed under this name, for what it owns to be given back.
    pub(crate) fn removed(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (!entry.used).then_some(&mut entry.value)
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// All values that have a name.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter(|entry| entry.used).map(|entry| &mut entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_past_finds_nothing() {
        let mut slab = Slab::<u32>::default();
        let (first, value) = slab.insert();
        *value = 7;
        assert_eq!((slab.get(first), slab.len()), (Some(&7), 1));
        assert_eq!(slab.remove(first).copied(), Some(7));
        assert_eq!((slab.get(first), slab.len()), (None, 0));
        assert!(slab.remove(first).is_none() && slab.get_mut(first).is_none());
        let (second, value) = slab.insert();
        assert_eq!(*value, 7, "the memory is used again");
        assert_ne!(first, second);
        assert_eq!(Key::from_bits(second.to_bits()), second);
        assert!(slab.get(Key::from_bits(u64::MAX)).is_none());
        assert_eq!(slab.values_mut().count(), 1);
    }
}
