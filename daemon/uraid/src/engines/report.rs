//! What `uraid engines` found on this machine, and its JSON, version 1 of docs/json.md.

use async_tx::{Calibration, OpKind, Thresholds};
use engine_dsa::caps::OpSet;
use engine_dsa::discover::{Device, Queue};
use engine_dsa::wire::Opcode;
use serde::Serialize;

/// All of it.
#[derive(Serialize, Debug)]
pub(super) struct EnginesReport {
    pub(super) version: u32,
    pub(super) cpu: CpuReport,
    pub(super) sysfs: String,
    pub(super) dev: String,
    /// Whether what was measured is that of a build for use.
    pub(super) optimised: bool,
    pub(super) notes: Vec<String>,
    pub(super) devices: Vec<DeviceReport>,
}

/// What computes where no device does.
#[derive(Serialize, Debug)]
pub(super) struct CpuReport {
    pub(super) kernel: Option<&'static str>,
    pub(super) crc32c: Option<&'static str>,
    pub(super) message: String,
}

/// A device.
#[derive(Serialize, Debug)]
pub(super) struct DeviceReport {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) state: Option<String>,
    pub(super) numa_node: Option<u32>,
    pub(super) operations: Vec<&'static str>,
    pub(super) max_transfer_bytes: Option<u64>,
    pub(super) notes: Vec<String>,
    pub(super) queues: Vec<QueueReport>,
}

/// A work queue.
#[derive(Serialize, Debug)]
pub(super) struct QueueReport {
    pub(super) name: String,
    pub(super) label: Option<String>,
    pub(super) node: String,
    pub(super) mode: Option<String>,
    pub(super) state: Option<String>,
    pub(super) entries: Option<u32>,
    pub(super) threshold: Option<u32>,
    pub(super) max_transfer_bytes: u64,
    pub(super) max_batch: u32,
    pub(super) operations: Vec<&'static str>,
    pub(super) usable: bool,
    /// Why not, each for people.
    pub(super) obstacles: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) method: Option<&'static str>,
    pub(super) measured: Option<String>,
    pub(super) offload: Vec<OffloadReport>,
}

/// From what size on a kind of operation pays.
#[derive(Serialize, Debug)]
pub(super) struct OffloadReport {
    pub(super) operation: &'static str,
    pub(super) from_bytes: Option<u64>,
    pub(super) samples: Vec<SampleReport>,
}

/// What an operation of one length takes.
#[derive(Serialize, Debug)]
pub(super) struct SampleReport {
    pub(super) bytes: u64,
    pub(super) cpu_ns: u64,
    pub(super) device_ns: u64,
    pub(super) round_trip_ns: u64,
}

/// What came of opening a queue.
#[derive(Debug)]
pub(super) struct OpenReport {
    method: &'static str,
    measured: String,
    offload: Vec<OffloadReport>,
}

impl OpenReport {
    pub(super) fn new(method: &'static str, found: &Calibration, thresholds: &Thresholds) -> Self {
        let offload = found.rows.iter().map(|row| OffloadReport {
            operation: row.kind.word(),
            from_bytes: thresholds.get(row.kind).filter(|len| *len != Thresholds::OFF).map(|len| len as u64),
            samples: row
                .samples
                .iter()
                .map(|sample| SampleReport {
                    bytes: sample.len as u64,
                    cpu_ns: sample.cpu,
                    device_ns: sample.pipelined,
                    round_trip_ns: sample.round_trip,
                })
                .collect(),
        });
        OpenReport { method, measured: found.outcome.to_string(), offload: offload.collect() }
    }
}

impl DeviceReport {
    pub(super) fn new(device: &Device, queues: Vec<QueueReport>) -> Self {
        DeviceReport {
            name: device.name.clone(),
            // The version is two numbers of eight bits.
            version: device.version.map(|version| format!("{}.{}", version >> 8, version & 0xff)),
            state: device.state.map(|state| state.to_string()),
            numa_node: device.numa_node,
            operations: device.op_cap.map(|ops| words(&ops)).unwrap_or_default(),
            max_transfer_bytes: device.max_transfer_size,
            notes: device.notes.clone(),
            queues,
        }
    }
}

impl QueueReport {
    /// `opened` is None for a queue that was not opened, for its obstacles.
    pub(super) fn new(queue: &Queue, opened: Option<Result<OpenReport, String>>) -> Self {
        let mut obstacles: Vec<String> = queue.obstacles.iter().map(ToString::to_string).collect();
        let opened = match opened {
            Some(Ok(opened)) => Some(opened),
            Some(Err(why)) => {
                obstacles.push(why);
                None
            }
            None => None,
        };
        let (method, measured, offload) = match opened {
            Some(OpenReport { method, measured, offload }) => (Some(method), Some(measured), offload),
            None => (None, None, Vec::new()),
        };
        QueueReport {
            name: queue.name.clone(),
            label: queue.label.clone(),
            node: queue.node.display().to_string(),
            mode: queue.mode.map(|mode| mode.to_string()),
            state: queue.state.map(|state| state.to_string()),
            entries: queue.size,
            threshold: queue.threshold,
            max_transfer_bytes: queue.max_transfer,
            max_batch: queue.max_batch,
            operations: words(&queue.ops),
            usable: obstacles.is_empty(),
            obstacles,
            notes: queue.notes.clone(),
            method,
            measured,
            offload,
        }
    }
}

/// The operations that mean something here.
fn words(ops: &OpSet) -> Vec<&'static str> {
    let known = [
        (Opcode::Memmove, OpKind::Copy.word()),
        (Opcode::Fill, OpKind::Fill.word()),
        (Opcode::Compare, OpKind::Compare.word()),
        (Opcode::Dualcast, OpKind::Dualcast.word()),
        (Opcode::CrcGen, OpKind::Crc32c.word()),
        (Opcode::CopyCrc, OpKind::CopyCrc32c.word()),
        (Opcode::Batch, "batch"),
        (Opcode::DifCheck, "dif"),
    ];
    known.into_iter().filter(|(opcode, _)| ops.contains(*opcode)).map(|(_, word)| word).collect()
}
