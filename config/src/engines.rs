//! `[engines]`: which accelerators take part of the work, from what size on, and how they are watched.
//!
//! Whether a device is there, and what it can do, is not known here. What is known is what no device of
//! its kind can do: naming such an operation is a problem with its reason, not an unknown key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::reader::{Reader, Section};
use crate::schema::tidy_path;
use crate::size::Size;

/// `[engines]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Engines {
    /// Whether Intel DSA work queues are used.
    pub dsa: Dsa,
    /// The only work queues that may be used; empty for all that are set up for uraid.
    pub queues: Vec<QueueName>,
    /// Every so many operations one is done again on the CPU and compared; 0 is never.
    pub cross_check: u32,
    /// An operation that a device has not ended by then is given up, and done on the CPU.
    pub timeout: Duration,
    /// How long a device that failed is left alone before it is tried again; longer each time in vain.
    pub retry: Duration,
    /// Where the kernel describes DSA devices; `None` stands for its usual place.
    pub dsa_sysfs: Option<PathBuf>,
    /// Where the device nodes of work queues are; `None` stands for their usual place.
    pub dsa_dev: Option<PathBuf>,
    /// From what length on operations are offloaded.
    pub offload: Offload,
}

/// Whether Intel DSA work queues are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dsa {
    /// Those that are found and usable.
    #[default]
    Auto,
    /// None.
    Off,
    /// At least one, or nothing is served.
    Require,
}

/// `[engines.offload]`: from what length on each kind of operation is offloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// Copies.
    pub copy: Threshold,
    /// Fills with one byte.
    pub fill: Threshold,
    /// Comparisons.
    pub compare: Threshold,
    /// Copies to two places.
    pub dualcast: Threshold,
    /// CRC-32C.
    pub crc32c: Threshold,
    /// A copy that computes CRC-32C on the way.
    pub copy_crc32c: Threshold,
}

/// From what length on operations of one kind are offloaded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Threshold {
    /// From where a measurement at the start says that it pays.
    #[default]
    Auto,
    /// Never.
    Never,
    /// From this length on.
    From(Size),
}

/// The name of a DSA work queue, `wqD.Q`: queue Q of device D.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueName(String);

/// Why a text is not a [`QueueName`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a work queue is named wqD.Q, as in wq0.0; `uraid engines` shows those of this machine")]
pub struct QueueNameError;

const TIMEOUT_MS_DEFAULT: u32 = 100;
const RETRY_MS_DEFAULT: u32 = 1000;
const OFFLOAD_MAX: Size = Size::from_bytes(1 << 40);
/// The words of `[engines] dsa`.
const DSA: &[(&str, Dsa)] = &[("auto", Dsa::Auto), ("off", Dsa::Off), ("require", Dsa::Require)];

/// Operations of a chain for which DSA 1 and 2 have no opcode.
const NOT_IN_DSA: &[&str] =
    &["xor", "xor_val", "p", "q", "pq", "pq_val", "pq_update", "recover", "gf_mul_add", "parity", "raid6"];

impl Default for Engines {
    fn default() -> Self {
        Engines {
            dsa: Dsa::Auto,
            queues: Vec::new(),
            cross_check: 0,
            timeout: Duration::from_millis(TIMEOUT_MS_DEFAULT.into()),
            retry: Duration::from_millis(RETRY_MS_DEFAULT.into()),
            dsa_sysfs: None,
            dsa_dev: None,
            offload: Offload::default(),
        }
    }
}

impl Offload {
    /// Every kind with its key.
    pub fn entries(&self) -> [(&'static str, Threshold); 6] {
        [
            ("copy", self.copy),
            ("fill", self.fill),
            ("compare", self.compare),
            ("dualcast", self.dualcast),
            ("crc32c", self.crc32c),
            ("copy_crc32c", self.copy_crc32c),
        ]
    }
}

impl QueueName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for QueueName {
    type Err = QueueNameError;

    fn from_str(text: &str) -> Result<Self, QueueNameError> {
        let number = |part: &str| {
            (1..=4).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_digit())
                && (part.len() == 1 || !part.starts_with('0'))
        };
        match text.strip_prefix("wq").and_then(|rest| rest.split_once('.')) {
            Some((device, queue)) if number(device) && number(queue) => Ok(QueueName(text.to_owned())),
            _ => Err(QueueNameError),
        }
    }
}

/// Reads both sections; a relative path is taken from `base`.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    engines: Section<'_>,
    offload: Section<'_>,
    base: &Path,
) -> Engines {
    let path = |text: &str| {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("it is the path of a directory".to_owned());
        }
        Ok(tidy_path(&base.join(text)))
    };
    let queues = reader.texts(engines, "queues", |text| text.parse::<QueueName>().map_err(|e| e.to_string()));
    let cross_check = reader.number(engines, "cross_check", 0, 0..=1_000_000, "operations");
    let timeout_ms = reader.number(engines, "timeout_ms", TIMEOUT_MS_DEFAULT, 1..=60_000, "milliseconds");
    let retry_ms = reader.number(engines, "retry_ms", RETRY_MS_DEFAULT, 10..=60_000, "milliseconds");
    Engines {
        dsa: reader.word(engines, "dsa", Dsa::Auto, DSA),
        queues: queues.unwrap_or_default().into_iter().map(|(queue, _)| queue).collect(),
        cross_check,
        timeout: Duration::from_millis(timeout_ms.into()),
        retry: Duration::from_millis(retry_ms.into()),
        dsa_sysfs: reader.text(engines, "dsa_sysfs", path),
        dsa_dev: reader.text(engines, "dsa_dev", path),
        offload: read_offload(reader, offload),
    }
}

fn read_offload(reader: &mut Reader<'_>, offload: Section<'_>) -> Offload {
    for key in NOT_IN_DSA {
        reader.refused_key(
            offload,
            key,
            format!("`{key}` cannot be offloaded: DSA has no such operation"),
            "remove it: parity is always computed on the CPU, by what `kernel` above the first [section] says",
        );
    }
    let mut threshold = |key| reader.threshold(offload, key, OFFLOAD_MAX);
    Offload {
        copy: threshold("copy"),
        fill: threshold("fill"),
        compare: threshold("compare"),
        dualcast: threshold("dualcast"),
        crc32c: threshold("crc32c"),
        copy_crc32c: threshold("copy_crc32c"),
    }
}

/// The keys of `[engines.offload]` that are refused with a reason of their own.
pub(crate) fn refused_offloads() -> &'static [&'static str] {
    NOT_IN_DSA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_named_as_the_kernel_names_them() {
        for good in ["wq0.0", "wq12.7", "wq9999.9999"] {
            assert_eq!(good.parse::<QueueName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in
            ["", "wq", "wq0", "wq.0", "wq0.", "wq0.0.0", "dsa0", "wq00.1", "wq-1.0", "wq0.0/../x", "wq0. 1"]
        {
            assert_eq!(bad.parse::<QueueName>(), Err(QueueNameError), "{bad:?}");
        }
    }
}
