//! A slab whose keys are never reused: index in the low half, a counter in the high half. State stays
//! `Clone`, and a late answer to a forgotten question is recognised.

/// Values by key; see the module.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<(u32, T)>>,
    free: Vec<u32>,
    count: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new(), count: 0, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Keeps a value and returns its key.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        self.count = self.count.wrapping_add(1);
        self.len += 1;
        let entry = Some((self.count, value));
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        u64::from(self.count) << 32 | u64::from(index)
    }

    /// Takes a value out; `None` if the key is not, or no longer, in use.
    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let index = key as u32;
        let entry = self.entries.get_mut(index as usize)?;
        if !matches!(entry, Some((count, _)) if u64::from(*count) == key >> 32) {
            return None;
        }
        let (_, value) = entry.take()?;
        self.free.push(index);
        self.len -= 1;
        Some(value)
    }

    /// How many values are kept.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The values, in no order that means anything but the same for the same history.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten().map(|(_, v)| v)
    }
}
