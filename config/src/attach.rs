//! `device` and `[attach]`: the block device of this machine that the volume is to be.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::reader::{Reader, Section};

/// The highest number that the kernel's minor numbers leave for an nbd device with partitions.
const INDEX_MAX: u32 = (1 << 15) - 1;
const TIMEOUT_S_DEFAULT: u32 = 15;
const DEAD_CONN_TIMEOUT_S_DEFAULT: u32 = 600;
const CONNECTIONS_MAX: u32 = 16;
/// No connection more than this by default: further ones gain nothing on any machine.
const CONNECTIONS_AUTO_MAX: usize = 4;

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceName {
    /// The first that is free.
    Auto,
    /// /dev/nbdN.
    Nbd(u32),
}

/// What is wrong with the name of a device.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("`{0}` is not /dev/nbd0, /dev/nbd1 and so on, nor \"auto\"")]
pub struct DeviceNameError(String);

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        if text == "auto" {
            return Ok(DeviceName::Auto);
        }
        let digits =
            text.strip_prefix("/dev/nbd").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let index = digits.and_then(|digits| digits.parse().ok()).filter(|index| *index <= INDEX_MAX);
        index.map(DeviceName::Nbd).ok_or_else(|| DeviceNameError(text.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Auto => f.write_str("auto"),
            DeviceName::Nbd(index) => write!(f, "/dev/nbd{index}"),
        }
    }
}

/// `[attach]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attach {
    /// Connections between the kernel and the daemon; `None` stands for [`Attach::sockets`]'s choice.
    pub connections: Option<u32>,
    /// How long the kernel waits for an answer until it takes a connection for dead; whole seconds.
    pub timeout: Duration,
    /// How long requests wait for a daemon when there is none; whole seconds.
    pub dead_conn_timeout: Duration,
}

impl Default for Attach {
    fn default() -> Self {
        Attach {
            connections: None,
            timeout: Duration::from_secs(TIMEOUT_S_DEFAULT.into()),
            dead_conn_timeout: Duration::from_secs(DEAD_CONN_TIMEOUT_S_DEFAULT.into()),
        }
    }
}

impl Attach {
    /// How many connections there are on a machine of so many processors.
    pub fn sockets(&self, processors: usize) -> usize {
        match self.connections {
            Some(connections) => connections as usize,
            None => processors.clamp(1, CONNECTIONS_AUTO_MAX),
        }
    }
}

pub(crate) fn read_device(reader: &mut Reader<'_>, top: Section<'_>) -> Option<DeviceName> {
    reader.text(top, "device", |text| text.parse::<DeviceName>().map_err(|error| error.to_string()))
}

pub(crate) fn read(reader: &mut Reader<'_>, attach: Section<'_>) -> Attach {
    let connections = attach
        .has("connections")
        .then(|| reader.number(attach, "connections", 1, 1..=CONNECTIONS_MAX, "connections"));
    let timeout = reader.number(attach, "timeout_s", TIMEOUT_S_DEFAULT, 1..=3600, "seconds");
    let dead =
        reader.number(attach, "dead_conn_timeout_s", DEAD_CONN_TIMEOUT_S_DEFAULT, 0..=604_800, "seconds");
    Attach {
        connections,
        timeout: Duration::from_secs(timeout.into()),
        dead_conn_timeout: Duration::from_secs(dead.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_nbd_devices() {
        assert_eq!("auto".parse(), Ok(DeviceName::Auto));
        for (text, index) in [("/dev/nbd0", 0), ("/dev/nbd17", 17), ("/dev/nbd32767", 32767)] {
            let device: DeviceName = text.parse().unwrap();
            assert_eq!((device, device.to_string().as_str()), (DeviceName::Nbd(index), text));
        }
        for text in ["", "nbd0", "/dev/nbd", "/dev/nbd0p1", "/dev/nbd+1", "/dev/nbd32768", "/dev/sda", "Auto"]
        {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn connections_follow_the_processors_unless_told() {
        let auto = Attach::default();
        assert_eq!([0, 1, 2, 4, 64].map(|n| auto.sockets(n)), [1, 1, 2, 4, 4]);
        assert_eq!(Attach { connections: Some(7), ..auto }.sockets(2), 7);
    }
}
