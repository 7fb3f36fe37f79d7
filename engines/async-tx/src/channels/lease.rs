//! A channel in use: it is given back when its queue has been closed.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::{ChannelId, ChannelInfo, Opener, Shared};
use crate::backend::{Backend, Caps, Completion, Limits, ReadyOp, Revival};
use crate::clock::Nanos;
use crate::op::{Op, OpKind};

/// Why a channel was not opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("channel {channel} of device {device} does not open: {why}")]
pub struct OpenError {
    /// The device's name.
    pub device: Arc<str>,
    /// The channel's name.
    pub channel: Arc<str>,
    /// What the opener said.
    pub why: Arc<str>,
}

/// A channel to use. Dropping it gives the channel back.
pub struct Lease {
    shared: Arc<Shared>,
    info: ChannelInfo,
    opener: Opener,
    near: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("info", &self.info).field("near", &self.near).finish_non_exhaustive()
    }
}

impl Lease {
    /// Of a channel that was counted as in use.
    pub(super) fn new(shared: Arc<Shared>, info: ChannelInfo, opener: Opener, near: bool) -> Self {
        Lease { shared, info, opener, near }
    }

    /// The channel.
    pub fn id(&self) -> ChannelId {
        self.info.id
    }

    /// The channel as it was when the lease was given.
    pub fn info(&self) -> &ChannelInfo {
        &self.info
    }

    /// Whether it is on the NUMA node of who attached; always for an exclusive one, which was chosen.
    pub fn is_near(&self) -> bool {
        self.near
    }

    /// Opens the channel. The backend holds the lease: the channel is given back when the backend has
    /// been dropped, and with it all that the queue could still write.
    ///
    /// Error: the opener's. The channel is given back, and marked as broken so that the next rebalance
    /// does not take it again.
    pub fn open(self) -> Result<Box<dyn Backend>, OpenError> {
        match (self.opener)() {
            Ok(backend) => Ok(Box::new(Leased { backend, _lease: self })),
            Err(why) => {
                let why: Arc<str> = why.into();
                self.shared.broke(self.info.id, why.clone());
                let ChannelInfo { device, name, .. } = self.info.clone();
                Err(OpenError { device, channel: name, why })
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.release(self.info.id);
    }
}

/// An open channel. The fields are dropped in this order.
struct Leased {
    backend: Box<dyn Backend>,
    _lease: Lease,
}

impl Backend for Leased {
    fn name(&self) -> &str {
        self.backend.name()
    }

    fn caps(&self) -> Caps {
        self.backend.caps()
    }

    fn limits(&self, kind: OpKind) -> Limits {
        self.backend.limits(kind)
    }

    fn accepts(&self, op: &Op<'_>) -> bool {
        self.backend.accepts(op)
    }

    fn fences(&self) -> Caps {
        self.backend.fences()
    }

    fn batch(&self) -> usize {
        self.backend.batch()
    }

    fn room(&self) -> usize {
        self.backend.room()
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        self.backend.submit(ops)
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.backend.reap(done);
    }

    fn abort(&mut self) {
        self.backend.abort();
    }

    fn revive(&mut self, now: Nanos) -> Revival {
        self.backend.revive(now)
    }

    fn relax(&mut self) {
        self.backend.relax();
    }
}
