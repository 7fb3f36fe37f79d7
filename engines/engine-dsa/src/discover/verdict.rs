//! Why a queue cannot be used, in words for whoever runs the machine.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{Kind, PREFIX, Queue, State};
use crate::wire::Opcode;

/// A reason not to use a queue.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// The device is not enabled.
    #[error("its device dsa{device} is {}: accel-config enable-device dsa{device}", state_word(*state))]
    Device {
        /// Number of the device.
        device: u32,
        /// Its state.
        state: Option<State>,
    },
    /// The device is halted for an error.
    #[error("its device dsa{0} has halted for an error; the kernel log says why, and what it needs")]
    Halted(u32),
    /// The queue is not enabled.
    #[error("the queue is {}: accel-config enable-wq dsa{device}/{queue}", state_word(*state))]
    Queue {
        /// Number of the device.
        device: u32,
        /// Name of the queue.
        queue: String,
        /// State of the queue.
        state: Option<State>,
    },
    /// The queue is for the kernel, or for nobody.
    #[error("the queue's type is {}, not user", kind_word(*.0))]
    Kind(Option<Kind>),
    /// The queue is somebody else's.
    #[error("the queue's name is {0:?}: only names that begin with \"{PREFIX}\" are used")]
    Label(String),
    /// Neither mode is set.
    #[error("the queue is neither dedicated nor shared")]
    Mode,
    /// It cannot copy.
    #[error("it cannot copy: MEMMOVE is not among the operations of the queue (op_cap and op_config)")]
    NoCopy,
    /// It has no entries, or does not say how many.
    #[error("the queue says no size")]
    Size,
    /// It takes no bytes, or does not say how many.
    #[error("neither queue nor device say a largest transfer")]
    Transfer,
    /// Processes' addresses cannot be used.
    #[error("dsa{0} cannot use addresses of processes: boot with intel_iommu=on,sm_on")]
    NoPasid(u32),
    /// The node is not there.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// The node may not be opened.
    #[error("{path} may not be opened for reading and writing ({}): a udev rule sets its group", io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// The node.
        path: PathBuf,
        /// The error number.
        errno: i32,
    },
}

fn state_word(state: Option<State>) -> String {
    state.map_or_else(|| "in an unknown state".into(), |state| state.to_string())
}

fn kind_word(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::None) => "none",
        Some(Kind::Kernel) => "kernel",
        Some(Kind::User) => "user",
        None => "unknown",
    }
}

/// What the permissions of a node say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// It may be opened.
    Allowed,
    /// It is not there.
    Missing,
    /// It may not, with this errno.
    Refused(i32),
}

/// All that speaks against the queue.
pub(super) fn obstacles(queue: &Queue, access: Access) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut object = |wrong: bool, obstacle: Obstacle| {
        if wrong {
            found.push(obstacle);
        }
    };
    let device = queue.device;
    let state = queue.device_state;
    let halted = state == Some(State::Halted);
    object(halted, Obstacle::Halted(device));
    object(!halted && state != Some(State::Enabled), Obstacle::Device { device, state });
    let state = queue.state;
    let name = || queue.name.clone();
    object(state != Some(State::Enabled), Obstacle::Queue { device, queue: name(), state });
    object(queue.kind != Some(Kind::User), Obstacle::Kind(queue.kind));
    let label = queue.label.clone().unwrap_or_default();
    object(!label.starts_with(PREFIX), Obstacle::Label(label));
    object(queue.mode.is_none(), Obstacle::Mode);
    object(!queue.ops.contains(Opcode::Memmove), Obstacle::NoCopy);
    object(queue.size.unwrap_or(0) == 0, Obstacle::Size);
    object(queue.max_transfer == 0, Obstacle::Transfer);
    object(queue.pasid_enabled == Some(false), Obstacle::NoPasid(device));
    let path = || queue.node.clone();
    match access {
        Access::Allowed => {}
        Access::Missing => found.push(Obstacle::Missing(path())),
        Access::Refused(errno) => found.push(Obstacle::Refused { path: path(), errno }),
    }
    found
}
