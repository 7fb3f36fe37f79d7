//! The requests that the core has: their names, their memory, and whom they belong to.

use uraid_blockio::{IoBuf, PoolBuf};
use uraid_core::{ReqId, RequestKind, Tick};

/// A request in flight. `T` is what the one who made it wants to find again in the answer.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    pub(crate) kind: RequestKind,
    pub(crate) len: u64,
    pub(crate) payload: Option<PoolBuf>,
    pub(crate) tag: T,
    pub(crate) since: Tick,
}

/// Requests by their names. A name is a place in the table and a generation, so that a name of the past
/// finds nothing.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    request: Option<InFlight<T>>,
}

impl<T> Requests<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, request: InFlight<T>) -> ReqId {
        if let Some(place) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(place as usize)
        {
            entry.generation = entry.generation.wrapping_add(1);
            entry.request = Some(request);
            return ReqId(u64::from(entry.generation) << 32 | u64::from(place));
        }
        // Every request holds memory or a place of its connection, so the table stays far below 2^32.
        let place = self.entries.len() as u64;
        self.entries.push(Entry { generation: 0, request: Some(request) });
        ReqId(place)
    }

    pub(crate) fn remove(&mut self, id: ReqId) -> Option<InFlight<T>> {
        let (generation, place) = (id.0 >> 32, id.0 as u32);
        let entry = self.entries.get_mut(place as usize)?;
        let request = entry.request.take_if(|_| u64::from(entry.generation) == generation)?;
        self.free.push(place);
        Some(request)
    }

    /// The payload of a request, if it has one.
    pub(crate) fn payload(&self, id: ReqId) -> Option<&IoBuf> {
        let entry = self.entries.get(id.0 as u32 as usize)?;
        let request = entry.request.as_ref().filter(|_| u64::from(entry.generation) == id.0 >> 32)?;
        request.payload.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tag: u32) -> InFlight<u32> {
        InFlight { kind: RequestKind::Flush, len: 0, payload: None, tag, since: Tick(0) }
    }

    #[test]
    fn a_name_is_good_for_one_request() {
        let mut requests = Requests::new();
        let (a, b) = (requests.insert(request(1)), requests.insert(request(2)));
        assert_ne!(a, b);
        assert_eq!(requests.remove(a).map(|r| r.tag), Some(1));
        assert!(requests.remove(a).is_none());
        let c = requests.insert(request(3));
        assert_ne!(a, c);
        assert!(requests.remove(a).is_none());
        assert!(requests.remove(ReqId(77)).is_none());
        assert_eq!(requests.len(), 2);
        assert_eq!(requests.remove(c).map(|r| r.tag), Some(3));
        assert_eq!(requests.remove(b).map(|r| r.tag), Some(2));
        assert_eq!(requests.len(), 0);
    }
}
