//! Submitting several descriptors in one call, with the rules and refusals of the system.

use engine_dsa::wire::{Descriptor, Opcode, RECORD_ALIGN};

use super::{ClientId, Device, Gone, Submit};

/// Why a call accepted nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// The queue said retry to the first descriptor.
    Retry,
    /// The first descriptor, or the whole call, was refused with this errno.
    Refused(i32),
    /// There is no queue for this client.
    Gone,
}

impl Device {
    /// Submits descriptors in their order until one is not accepted; how many were. An error is that of the
    /// first; an empty call accepts none.
    ///
    /// `write_rules`: as write(2) on the queue's node does, a record's address that is not aligned is refused
    /// even where no record was asked for. In any case BATCH is refused where user submission is unsafe.
    pub fn call(
        &mut self,
        client: ClientId,
        descriptors: &[Descriptor],
        write_rules: bool,
    ) -> Result<usize, CallError> {
        let Some(first) = descriptors.first() else { return Ok(0) };
        let most = self.planned_call(first)?.unwrap_or(u32::MAX) as usize;
        if most < descriptors.len() {
            self.counters.shortened += 1;
        }
        let mut accepted = 0;
        for descriptor in descriptors.iter().take(most) {
            match self.call_one(client, descriptor, write_rules) {
                Ok(()) => accepted += 1,
                Err(error) if accepted == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(accepted)
    }

    fn call_one(
        &mut self,
        client: ClientId,
        descriptor: &Descriptor,
        write_rules: bool,
    ) -> Result<(), CallError> {
        let batch = descriptor.opcode() == Opcode::Batch as u8;
        let misaligned = !descriptor.record().is_multiple_of(RECORD_ALIGN as u64);
        if batch && self.personality().unsafe_submission || write_rules && misaligned {
            return Err(CallError::Refused(libc::EINVAL));
        }
        match self.submit(client, descriptor) {
            Ok(Submit::Accepted) => Ok(()),
            Ok(Submit::Retry) => Err(CallError::Retry),
            Err(Gone) => Err(CallError::Gone),
        }
    }

    /// What the plan has for a call that begins with this descriptor: a refusal, or how many it accepts.
    fn planned_call(&mut self, first: &Descriptor) -> Result<Option<u32>, CallError> {
        let upcoming = self.upcoming(first);
        if let Some(errno) = upcoming.refuse.take() {
            self.counters.refused += 1;
            return Err(CallError::Refused(errno));
        }
        Ok(upcoming.short.take())
    }
}
