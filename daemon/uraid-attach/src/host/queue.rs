//! Queue limits: what the NBD driver cannot be told by the protocol and sysfs takes.

use std::fs;
use std::io;

use super::{Host, read_trimmed};

/// The driver takes no request above this (KiB), whatever sysfs says.
const REQUEST_KB_MAX: u64 = 32768;
/// Linux's own default (KiB); it is not lowered.
const READ_AHEAD_KB_MIN: u64 = 128;

/// What the array behind a device makes worth wanting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Data bytes of a full stripe: chunk size times data members.
    pub stripe_bytes: u64,
    /// Whether any member seeks.
    pub rotational: bool,
}

/// What a queue is like. What this kernel does not show is none.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct QueueState {
    /// Largest request, KiB.
    pub max_sectors_kb: Option<u64>,
    /// What the driver allows for it, KiB.
    pub max_hw_sectors_kb: Option<u64>,
    /// KiB.
    pub read_ahead_kb: Option<u64>,
    /// The scheduler that is chosen.
    pub scheduler: Option<String>,
    /// Whether the device is said to seek.
    pub rotational: Option<bool>,
    /// Requests that the queue holds.
    pub nr_requests: Option<u64>,
    /// Bytes.
    pub logical_block_size: Option<u64>,
    /// Bytes; nbd cannot be told a chunk size.
    pub minimum_io_size: Option<u64>,
    /// Bytes; nbd cannot be told a stripe.
    pub optimal_io_size: Option<u64>,
    /// `write back`: fsync reaches the server. `write through`: it does not.
    pub write_cache: Option<String>,
}

/// A value that sysfs did not take.
#[derive(Debug)]
pub struct Refusal {
    /// The file below /sys/block/nbdN/queue.
    pub file: &'static str,
    /// What was written.
    pub value: String,
    /// Why not.
    pub error: io::Error,
}

/// What came of [`Host::tune`].
#[derive(Debug)]
pub struct Tuned {
    /// The queue as it is now.
    pub state: QueueState,
    /// What could not be set. Nothing that the data depend on: the device is slower.
    pub refused: Vec<Refusal>,
}

impl QueueLimits {
    /// The largest request (KiB): a multiple of the stripe if one fits, so that a long write is cut between
    /// stripes. At the default (128 KiB on 6.1) every full-stripe write would become read-modify-write.
    fn max_sectors_kb(&self, hardware: u64) -> u64 {
        let most = hardware.min(REQUEST_KB_MAX);
        match most.checked_div(self.stripe_bytes / 1024) {
            Some(stripes) if stripes > 0 => stripes * (self.stripe_bytes / 1024),
            _ => most,
        }
    }

    /// Two stripes, so that one is read while the other is being used.
    fn read_ahead_kb(&self) -> u64 {
        (self.stripe_bytes / 1024).saturating_mul(2).clamp(READ_AHEAD_KB_MIN, REQUEST_KB_MAX)
    }

    /// What to write where, given what is there. `schedulers` is the file's text.
    fn plan(&self, state: &QueueState, schedulers: &str) -> Vec<(&'static str, String)> {
        let mut plan = Vec::new();
        let hardware = state.max_hw_sectors_kb.unwrap_or(REQUEST_KB_MAX);
        plan.push(("max_sectors_kb", self.max_sectors_kb(hardware).to_string()));
        plan.push(("read_ahead_kb", self.read_ahead_kb().to_string()));
        // Kernels before 6.2 do not take it from the transmission flags.
        if state.rotational.is_some_and(|rotational| rotational != self.rotational) {
            plan.push(("rotational", u8::from(self.rotational).to_string()));
        }
        // What does not seek gains nothing from an order, and 'none' is the shortest way.
        let wanted = if self.rotational { "mq-deadline" } else { "none" };
        if offered(schedulers).any(|name| name == wanted) && state.scheduler.as_deref() != Some(wanted) {
            plan.push(("scheduler", wanted.to_owned()));
        }
        plan
    }
}

/// `[mq-deadline] none`: all of them, without the brackets.
fn offered(schedulers: &str) -> impl Iterator<Item = &str> {
    schedulers.split_whitespace().map(|name| name.trim_matches(['[', ']']))
}

impl Host {
    /// Sets the queue limits of an attached device, and reads them back. They do not outlive it: do it
    /// after every attach.
    ///
    /// Changing the scheduler, and with newer kernels anything else, waits for the requests in flight, so
    /// the device must be served meanwhile.
    pub fn tune(&self, index: u32, wanted: &QueueLimits) -> Tuned {
        let schedulers = self.queue_text(index, "scheduler").unwrap_or_default();
        let mut refused = Vec::new();
        for (file, value) in wanted.plan(&self.queue(index), &schedulers) {
            // Opened to write only: a file that is not there is not made.
            let written = fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(self.sys(&format!("block/nbd{index}/queue/{file}")))
                .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
            if let Err(error) = written {
                refused.push(Refusal { file, value, error });
            }
        }
        Tuned { state: self.queue(index), refused }
    }

    /// The queue of a device as it is.
    pub fn queue(&self, index: u32) -> QueueState {
        let number = |file| self.queue_text(index, file).and_then(|text| text.parse().ok());
        let schedulers = self.queue_text(index, "scheduler").unwrap_or_default();
        let chosen = schedulers.split_whitespace().find_map(|name| name.strip_prefix('[')?.strip_suffix(']'));
        QueueState {
            max_sectors_kb: number("max_sectors_kb"),
            max_hw_sectors_kb: number("max_hw_sectors_kb"),
            read_ahead_kb: number("read_ahead_kb"),
            scheduler: chosen.map(str::to_owned),
            rotational: self.queue_text(index, "rotational").map(|text| text != "0"),
            nr_requests: number("nr_requests"),
            logical_block_size: number("logical_block_size"),
            minimum_io_size: number("minimum_io_size"),
            optimal_io_size: number("optimal_io_size"),
            write_cache: self.queue_text(index, "write_cache"),
        }
    }

    fn queue_text(&self, index: u32, file: &str) -> Option<String> {
        read_trimmed(&self.sys(&format!("block/nbd{index}/queue/{file}"))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_long_as_whole_stripes_fit() {
        let kb =
            |stripe_bytes, hardware| QueueLimits { stripe_bytes, rotational: false }.max_sectors_kb(hardware);
        assert_eq!(kb(256 << 10, 32768), 32768);
        assert_eq!(kb(192 << 10, 32768), 32640, "170 stripes of 192 KiB");
        assert_eq!(kb(192 << 10, 65536), 32640, "the driver's own limit");
        assert_eq!(kb(64 << 20, 32768), 32768, "no stripe fits");
        assert_eq!(kb(0, 32768), 32768);
        assert_eq!(kb(300 << 10, 512), 300);
    }

    #[test]
    fn read_ahead_is_two_stripes_within_reason() {
        let kb = |stripe_bytes| QueueLimits { stripe_bytes, rotational: false }.read_ahead_kb();
        assert_eq!((kb(1 << 20), kb(16 << 10), kb(u64::MAX)), (2048, 128, 32768));
    }

    #[test]
    fn only_what_is_offered_and_not_there_is_written() {
        let state = QueueState {
            max_hw_sectors_kb: Some(32768),
            rotational: Some(false),
            scheduler: Some("mq-deadline".to_owned()),
            ..QueueState::default()
        };
        let flash = QueueLimits { stripe_bytes: 256 << 10, rotational: false };
        let files = |wanted: &QueueLimits, state: &QueueState, offered: &str| -> Vec<_> {
            wanted.plan(state, offered).into_iter().skip(2).collect()
        };
        assert_eq!(files(&flash, &state, "[mq-deadline] none"), [("scheduler", "none".to_owned())]);
        assert!(files(&flash, &state, "[mq-deadline]").is_empty());
        let disks = QueueLimits { rotational: true, ..flash };
        assert_eq!(files(&disks, &state, "[mq-deadline] none"), [("rotational", "1".to_owned())]);
    }
}
