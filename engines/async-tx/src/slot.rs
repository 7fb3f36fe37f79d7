//! A backend, and what the engine knows about it.

use std::sync::Arc;
use std::time::Duration;

use crate::OpKind;
use crate::backend::{Backend, Caps};
use crate::clock::Nanos;
use crate::flight::Berth;
use crate::route::{Candidate, Health, Profile};
use crate::slab::Key;
use crate::stats::BackendStats;
use crate::thresholds::Thresholds;

/// A node in a pending list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) flight: Key,
    pub(crate) node: usize,
    /// It is to start only after those before it in the list ended.
    pub(crate) fence: bool,
}

/// When a backend that is not well is looked at again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probing {
    /// When it fell ill, or was told to leave.
    pub(crate) since: Nanos,
    /// When to look again.
    pub(crate) next: Nanos,
    /// How long to wait after a look in vain.
    pub(crate) pause: Duration,
    /// It was asked to revive and has not said how that ended.
    pub(crate) asked: bool,
    /// It was said that it gives up late.
    pub(crate) told: bool,
    /// When it was well again.
    pub(crate) revived: Option<Nanos>,
}

pub(crate) struct Slot {
    pub(crate) name: Arc<str>,
    /// None once it was removed.
    pub(crate) backend: Option<Box<dyn Backend>>,
    pub(crate) profile: Profile,
    pub(crate) health: Health,
    pub(crate) near: bool,
    /// The larger, the later it was added.
    pub(crate) added: u64,
    /// How many backends the slot had before.
    pub(crate) epoch: u32,
    /// How often the backend was revived, or was found to take something else than it said. What was cut for it
    /// before goes on elsewhere.
    pub(crate) terms: u32,
    /// Nodes that are to be issued together.
    pub(crate) pending: Vec<Waiter>,
    /// The kinds of the operations in it.
    pub(crate) pending_kinds: Caps,
    /// Names that list, until it is issued.
    pub(crate) batch: u64,
    /// Operations in its hands.
    pub(crate) in_hand: usize,
    /// No deadline of an operation in its hands is earlier.
    pub(crate) check_at: Nanos,
    pub(crate) probing: Probing,
    /// Operations since the last one that was to be cross-checked.
    pub(crate) unchecked: u32,
    pub(crate) stats: BackendStats,
}

impl Slot {
    pub(crate) fn new(backend: Box<dyn Backend>, thresholds: Thresholds, near: bool) -> Self {
        let probing = Probing {
            since: Nanos::default(),
            next: Nanos::NEVER,
            pause: Duration::ZERO,
            asked: false,
            told: false,
            revived: None,
        };
        Slot {
            name: backend.name().into(),
            profile: Profile::of(&*backend, thresholds),
            stats: BackendStats { name: backend.name().to_owned(), ..BackendStats::default() },
            backend: Some(backend),
            health: Health::Good,
            near,
            added: 0,
            epoch: 0,
            terms: 0,
            pending: Vec::new(),
            pending_kinds: Caps::NONE,
            batch: 0,
            in_hand: 0,
            check_at: Nanos::NEVER,
            probing,
            unchecked: 0,
        }
    }

    /// What routing sees of it.
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        let health = if self.backend.is_some() { self.health } else { Health::Leaving };
        let room = match health {
            Health::Good => self.room(),
            Health::Quarantined | Health::Leaving => 0,
        };
        Candidate { profile: &self.profile, room, health, near: self.near }
    }

    /// How many more operations may be put into its pending list.
    pub(crate) fn room(&self) -> usize {
        let room = self.backend.as_ref().map_or(0, |backend| backend.room());
        room.saturating_sub(self.pending.len())
    }

    /// Asks the backend again what it takes; returns whether that is something else.
    pub(crate) fn look_again(&mut self) -> bool {
        let Some(backend) = &self.backend else { return false };
        let profile = Profile::of(&**backend, self.profile.thresholds);
        let differs = profile != self.profile;
        self.profile = profile;
        self.terms = self.terms.wrapping_add(u32::from(differs));
        differs
    }

    /// The backend as it is now, in the slot of this index.
    pub(crate) fn berth(&self, slot: usize) -> Berth {
        Berth { slot, epoch: self.epoch, terms: self.terms }
    }

    /// Whether it takes operations, and is still the one that `berth` names, on the same terms.
    pub(crate) fn serves(&self, berth: Berth) -> bool {
        self.berth(berth.slot) == berth && self.is_good()
    }

    pub(crate) fn is_good(&self) -> bool {
        self.health == Health::Good && self.backend.is_some()
    }

    /// The kinds that it may be given while it is well.
    pub(crate) fn offered(&self) -> Caps {
        let offers = |kind: OpKind| {
            let limits = self.profile.limits(kind);
            kind != OpKind::Notify
                && self.profile.caps.has(kind)
                && self.profile.thresholds.len_min(kind, limits) != Thresholds::OFF
        };
        OpKind::ALL.into_iter().filter(|kind| offers(*kind)).fold(Caps::NONE, Caps::with)
    }
}
