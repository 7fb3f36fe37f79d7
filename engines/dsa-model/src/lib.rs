//! A model of an Intel DSA device: executes the real 64-byte descriptors, writes real completion records,
//! and misbehaves on request.
//!
//! [`execute`] does what one descriptor says against a [`memory`]; [`device`] is a queue with its engine,
//! stepped by hand and deterministic; [`faults`] is what goes wrong; [`model`] shares a device between
//! threads and gives a [`Portal`](engine_dsa::portal::Portal) on it.
//!
//! The model decodes the raw 64 bytes itself and shares nothing with the driver but the offsets and names
//! of `engine_dsa::wire`. Its checksums are its own.
//!
//! # What it cannot prove
//! - That the instructions of a mapped portal (ENQCMD, MOVDIR64B) are encoded and used rightly.
//! - Anything of PASID, IOMMU, ATS and page requests beyond their outcome in a record.
//! - The order in which a real device's writes become visible, data against record: here the record's
//!   status is stored with release order after everything else.
//! - Which of two coexisting errors a real device tells, its code for a size of zero or for a batch inside
//!   a batch, and how far it says it came on success: the model makes a choice where the public sources
//!   leave it open.
//! - Performance.

mod batch;
pub mod check;
pub mod counters;
pub mod crc;
pub mod device;
pub mod execute;
pub mod faults;
mod inject;
pub mod memory;
pub mod model;
pub mod personality;
pub mod record;
pub mod rng;
pub mod server;
pub mod sysfs;
mod view;
