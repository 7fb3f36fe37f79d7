//! The terms on which a connection is served, which may differ from one to the next.

use std::fmt;
use std::time::Duration;

use uraid_core::Tick;

use crate::conn::{Connection, ConnectionLimits};

/// What holds for one connection. The default is what the shard's tuning says, silence for ever, and nobody
/// who counts; it is right for the kernel's own connections, too.
#[derive(Default)]
pub struct Terms {
    /// What it may have in flight, if that is not what [`Tuning`](crate::Tuning) says.
    pub limits: Option<ConnectionLimits>,
    /// How long it may be silent while it waits for nothing; it is closed then.
    pub idle: Option<Duration>,
    /// Dropped with the connection, whatever the reason. It is dropped on the shard's thread, so that must
    /// not take long.
    pub lease: Option<Box<dyn Send>>,
}

impl Terms {
    /// When the connection has been silent for too long, if it may be and nothing happens before.
    pub(crate) fn idle_at(&self, connection: &Connection) -> Option<Tick> {
        let idle = u64::try_from(self.idle?.as_nanos()).unwrap_or(u64::MAX);
        connection.is_quiet().then(|| Tick(connection.last_moved().0.saturating_add(idle)))
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Terms { limits, idle, lease } = self;
        let leased = lease.is_some();
        f.debug_struct("Terms").field("limits", limits).field("idle", idle).field("leased", &leased).finish()
    }
}
