//! What ends the service of a volume, and how it ends.
//!
//! | told by | the device is used | it is not |
//! |---|---|---|
//! | `uraid stop` | refused, and says who uses it | detached, then the array stops |
//! | `uraid stop --force` | detached all the same | likewise |
//! | SIGTERM, SIGINT | goes on until it is not used any more | likewise |
//! | a restart of the service | handed over | handed over |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nbd_rs::ExportInfo;
use tokio::sync::{mpsc, oneshot};
use uraid_shard::{HandedOver, ShardExit, ShardHandle};

use super::device::{Attached, DetachError, Device, Left};
use super::handover::{ArrayFacts, Leaving, leave};
use super::listen::Kept;
use super::members::Claims;
use super::{STOP_DEADLINE, STOP_GRACE, Signals, Unclean, manager};

/// How often it is looked whether a used device is let go of, while the daemon wants to stop.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the service ends.
pub(super) enum Cause {
    /// The shard ended by itself.
    Exit(ShardExit),
    /// It is to stop. The device is detached.
    Stop,
    /// The next process goes on.
    HandOver,
    /// There is no device, and there should be one.
    NoDevice(String),
}

/// Everybody who may have a say in it.
pub(super) struct Watch<'a> {
    pub(super) signals: &'a mut Signals,
    pub(super) exit: &'a mut oneshot::Receiver<ShardExit>,
    /// An operator's stop; the device is detached by then.
    pub(super) stop: mpsc::Receiver<()>,
    /// An operator's wish to hand over.
    pub(super) hand_over: mpsc::Receiver<()>,
    pub(super) device: Option<Device>,
}

impl Watch<'_> {
    /// Waits until the device, if there is to be one, has answered.
    pub(super) async fn until_ready(
        &mut self,
        ready: Option<oneshot::Receiver<Result<Attached, String>>>,
    ) -> Result<Option<Attached>, Cause> {
        let Some(ready) = ready else { return Ok(None) };
        tokio::select! {
            attached = ready => match attached {
                Ok(Ok(attached)) => Ok(Some(attached)),
                Ok(Err(why)) => Err(Cause::NoDevice(why)),
                Err(_) => Err(Cause::NoDevice("the device's thread has ended".to_owned())),
            },
            cause = Self::asked(self.signals, self.exit, &mut self.stop, &mut self.hand_over) => {
                match cause {
                    Some(cause) => Err(cause),
                    // What is being attached is detached first.
                    None => Err(self.until_released(String::new()).await),
                }
            }
        }
    }

    /// Waits until the service is to end.
    pub(super) async fn until_the_end(&mut self) -> Cause {
        match Self::asked(self.signals, self.exit, &mut self.stop, &mut self.hand_over).await {
            Some(cause) => cause,
            None => self.until_released(String::new()).await,
        }
    }

    /// A signal said: stop. Nobody who uses the device loses it to that, however many signals come: it is
    /// served until it is let go of. `said` is what was said about it last.
    async fn until_released(&mut self, mut said: String) -> Cause {
        loop {
            let Some(device) = &self.device else { return Cause::Stop };
            let why = match device.detach(false).await {
                Ok(()) => return Cause::Stop,
                Err(DetachError::Held(who)) => format!("{who}; it is served until that ends, and stops then"),
                Err(DetachError::Failed(why)) => why,
            };
            if why != said {
                tracing::warn!("{why}");
            }
            // Said again and again, for others tell the manager of the array's state.
            manager::status(&format!("waits to stop: {why}"));
            said = why;
            tokio::select! {
                cause = Self::asked(self.signals, self.exit, &mut self.stop, &mut self.hand_over) => {
                    match cause {
                        Some(cause) => return cause,
                        None => said.clear(),
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The next thing that somebody asks for; none for a signal.
    async fn asked(
        signals: &mut Signals,
        exit: &mut oneshot::Receiver<ShardExit>,
        stop: &mut mpsc::Receiver<()>,
        hand_over: &mut mpsc::Receiver<()>,
    ) -> Option<Cause> {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!("{signal}: stopping");
                None
            }
            _ = stop.recv() => {
                tracing::info!("told to stop");
                Some(Cause::Stop)
            }
            _ = hand_over.recv() => {
                tracing::info!("told to hand over");
                Some(Cause::HandOver)
            }
            exit = exit => Some(Cause::Exit(exit.unwrap_or(ShardExit::Panicked))),
        }
    }
}

/// What a hand-over needs beside the shard.
pub(super) struct HandOver<'a> {
    pub(super) array: ArrayFacts,
    pub(super) export: ExportInfo,
    pub(super) device: Option<&'a Device>,
    pub(super) listeners: Vec<Kept>,
    pub(super) claims: &'a Mutex<Claims>,
}

impl HandOver<'_> {
    /// Stops the shard, and leaves to the service manager what the next process needs.
    pub(super) async fn run(
        self,
        shard: &ShardHandle,
        exit: oneshot::Receiver<ShardExit>,
    ) -> Result<(), Unclean> {
        let left = match self.device {
            Some(device) => device.let_go().await,
            None => Left::default(),
        };
        let handed = let_go(shard, exit).await?;
        // From here on the next process may take the members.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).release_all();
        if !handed.clean {
            tracing::warn!("handed over, but not marked clean; the next process looks after that");
        }
        let listeners = self.listeners.into_iter().map(|kept| (kept.address, kept.socket)).collect();
        let leaving = Leaving {
            array: self.array,
            ended_at: handed.clean.then_some(handed.events),
            export: self.export,
            connections: handed.connections,
            listeners,
            device: left.record,
            netlink: left.netlink,
        };
        leave(&leaving).map_err(|error| Unclean::NotLeft(Arc::new(error)))?;
        Ok(())
    }
}

async fn let_go(shard: &ShardHandle, exit: oneshot::Receiver<ShardExit>) -> Result<HandedOver, Unclean> {
    let (tell, told) = oneshot::channel();
    // If it is gone, its exit tells why.
    let _ = shard.hand_over(STOP_DEADLINE, move |handed| {
        let _ = tell.send(handed);
    });
    let exit = tokio::select! {
        exit = exit => exit.unwrap_or(ShardExit::Panicked),
        () = tokio::time::sleep(STOP_DEADLINE + STOP_GRACE) => return Err(Unclean::Late),
    };
    // It was told before the exit, or never.
    told.await.map_err(|_| Unclean::Exit(exit))
}
