//! What `uraid kernels` found, and its JSON, version 1 of docs/json.md.

use raid6_simd::{Feature, Kernel, Why};
use serde::Serialize;

use crate::failure::Failure;

/// All of it.
#[derive(Serialize, Debug)]
pub(super) struct KernelsReport {
    pub(super) version: u32,
    pub(super) cpu: Cpu,
    pub(super) kernels: Vec<KernelReport>,
    pub(super) choices: Vec<KernelChoice>,
    /// Whether the rates are those of a build for use.
    pub(super) optimised: bool,
    pub(super) measurements: Vec<Table>,
}

/// The CPU as the system and its own feature bits describe it.
#[derive(Serialize, Debug)]
pub(super) struct Cpu {
    pub(super) architecture: &'static str,
    pub(super) model: Option<String>,
    pub(super) features: Vec<FeatureReport>,
    pub(super) caches: Vec<Cache>,
}

/// A feature that some kernel looks at.
#[derive(Serialize, Debug)]
pub(super) struct FeatureReport {
    pub(super) name: &'static str,
    pub(super) present: bool,
}

/// A cache of the CPU that this process may run on.
#[derive(Serialize, PartialEq, Eq, Clone, Debug)]
pub(super) struct Cache {
    pub(super) level: u32,
    pub(super) kind: CacheKind,
    pub(super) bytes: u64,
    pub(super) shared_by: u32,
}

/// What a cache is for.
#[derive(Serialize, PartialEq, Eq, Clone, Copy, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum CacheKind {
    Data,
    Instruction,
    Unified,
}

/// An implementation.
#[derive(Serialize, Debug)]
pub(super) struct KernelReport {
    pub(super) name: &'static str,
    pub(super) available: bool,
    pub(super) needs: &'static [&'static str],
    pub(super) lacks: Vec<&'static str>,
}

/// What a word of the configuration takes on this machine.
#[derive(Serialize, Debug)]
pub(super) struct KernelChoice {
    pub(super) selection: String,
    /// None if calls cycle through all.
    pub(super) kernel: Option<&'static str>,
    /// What computes CRC-32C beside it; None as above.
    pub(super) crc32c: Option<&'static str>,
    pub(super) why: &'static str,
    pub(super) message: String,
}

/// What was measured on one working set.
#[derive(Serialize, Debug)]
pub(super) struct Table {
    pub(super) set: Set,
    pub(super) working_set_bytes: Option<u64>,
    pub(super) data_blocks: usize,
    pub(super) block_bytes: usize,
    pub(super) skipped: Option<String>,
    pub(super) rates: Vec<RateReport>,
}

/// Where the blocks are when they are computed over.
#[derive(Serialize, PartialEq, Eq, Clone, Copy, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Set {
    Hot,
    L3,
    Memory,
}

/// One cell of a table.
#[derive(Serialize, Debug)]
pub(super) struct RateReport {
    pub(super) kernel: &'static str,
    pub(super) work: &'static str,
    pub(super) bytes_per_second: u64,
    pub(super) median_bytes_per_second: u64,
}

impl KernelsReport {
    pub(super) fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self).map_err(Failure::operating)
    }
}

impl From<Feature> for FeatureReport {
    fn from(Feature { name, present }: Feature) -> Self {
        FeatureReport { name, present }
    }
}

impl From<Kernel> for KernelReport {
    fn from(kernel: Kernel) -> Self {
        KernelReport {
            name: kernel.name(),
            available: kernel.is_available(),
            needs: kernel.features(),
            lacks: kernel.lacks(),
        }
    }
}

/// The word for a reason, as it stands in the JSON.
pub(super) fn why_word(why: Why) -> &'static str {
    match why {
        Why::Preferred => "preferred",
        Why::Fastest => "fastest",
        Why::NotMeasured(_) => "not_measured",
        Why::Named => "named",
        Why::Cycle => "cycle",
        _ => "unknown",
    }
}
