//! Proof that a queue works: a NOOP, then a copy whose bytes are looked at.

use super::Queue;
use crate::portal::PortalError;
use crate::record::Outcome;
use crate::records::{Line, PROBE_BYTES};
use crate::wire::{Descriptor, Opcode};

/// How far a probe is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeState {
    /// None was begun.
    Idle,
    /// The NOOP is to be submitted.
    Noop,
    /// It was submitted.
    NoopSent,
    /// The copy is to be submitted.
    Copy,
    /// It was submitted.
    CopySent,
    /// It works.
    Passed,
    /// It does not: this status, or 0 for a copy that is wrong or a queue that takes nothing.
    Failed(u8),
}

/// What the copy copies.
fn pattern() -> [u8; PROBE_BYTES] {
    // Any bytes will do that do not repeat soon; the cast takes the low ones.
    std::array::from_fn(|i| (i.wrapping_mul(31) ^ (i >> 3)) as u8)
}

impl Queue {
    /// Begins to probe. For a queue that was given nothing yet.
    pub fn begin_probe(&mut self) {
        self.probe = ProbeState::Noop;
    }

    /// Moves the probe on, as far as it goes without waiting. How long to ask again is the caller's to say:
    /// a queue that is full or silent stays where it is.
    pub fn poll_probe(&mut self) -> ProbeState {
        let mut before = ProbeState::Idle;
        while before != self.probe {
            before = self.probe;
            self.probe = match before {
                ProbeState::Noop => self.send_probe(Some(Descriptor::noop()), ProbeState::NoopSent),
                ProbeState::NoopSent => self.look_probe(ProbeState::Copy),
                ProbeState::Copy if !self.setup.operations.contains(Opcode::Memmove) => ProbeState::Passed,
                ProbeState::Copy => {
                    self.link.pool.write_probe(0, &pattern());
                    self.link.pool.write_probe(1, &[0; PROBE_BYTES]);
                    let (from, to) = (self.link.pool.probe_address(0), self.link.pool.probe_address(1));
                    let copy = Descriptor::memmove(from, to, self.probe_len() as u64).ok();
                    self.send_probe(copy, ProbeState::CopySent)
                }
                ProbeState::CopySent => match self.look_probe(ProbeState::Passed) {
                    ProbeState::Passed if !self.is_copied() => ProbeState::Failed(0),
                    state => state,
                },
                over => over,
            };
        }
        self.probe
    }

    /// Bytes of the copy.
    fn probe_len(&self) -> usize {
        usize::try_from(self.setup.max_transfer).unwrap_or(PROBE_BYTES).min(PROBE_BYTES)
    }

    /// Whether just the bytes of the copy are there.
    fn is_copied(&self) -> bool {
        let (is, len) = (self.link.pool.read_probe(1), self.probe_len());
        is.iter().zip(pattern()).enumerate().all(|(i, (is, copied))| *is == if i < len { copied } else { 0 })
    }

    fn send_probe(&mut self, descriptor: Option<Descriptor>, next: ProbeState) -> ProbeState {
        let address = self.link.pool.address(Line::Probe);
        let Some(descriptor) = descriptor.and_then(|d| d.with_record(address).ok()) else {
            return ProbeState::Failed(0);
        };
        self.link.pool.arm(Line::Probe);
        match self.link.portal.submit(std::slice::from_ref(&descriptor)) {
            Ok(0) | Err(PortalError::Retry) => self.probe,
            Ok(_) => next,
            Err(_) => ProbeState::Failed(0),
        }
    }

    fn look_probe(&self, next: ProbeState) -> ProbeState {
        let record = self.link.pool.load(Line::Probe);
        match record.outcome() {
            Outcome::Pending => self.probe,
            Outcome::Success => next,
            _ => ProbeState::Failed(record.status()),
        }
    }
}
