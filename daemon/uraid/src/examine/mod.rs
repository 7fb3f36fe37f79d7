//! `uraid examine`: what the superblocks of members say, in the shape that mdadm made familiar, or as
//! JSON. Each member stands for itself; whether they fit together is for assembly to say.

mod json;
mod text;

pub use json::{ExamineDocument, MemberReport, SuperblockReport};

use std::path::Path;

use md_format::{Fault, Superblock, SuperblockError};

use crate::cli::ExamineArgs;
use crate::device::Device;
use crate::failure::Failure;
use crate::{out, scan};

/// What a look at one member gave.
struct Examined<'a> {
    path: &'a Path,
    /// Its size, if it could be opened.
    device_bytes: Option<u64>,
    superblock: Result<Superblock, SuperblockError>,
}

/// Prints what each member says.
///
/// # Errors
/// At least one member has no usable superblock; the others were printed all the same.
pub fn run(args: &ExamineArgs) -> Result<(), Failure> {
    let examined: Vec<Examined<'_>> = args.members.iter().map(|path| examine(path)).collect();
    if args.json {
        out::print(&(json::document(&examined)? + "\n"))?;
    } else {
        for member in &examined {
            match &member.superblock {
                Ok(superblock) => out::print(&text::member(member.path, superblock))?,
                Err(error) => eprintln!("uraid: {}: {error}", member.path.display()),
            }
        }
    }
    match examined.iter().filter(|member| member.superblock.is_err()).count() {
        0 => Ok(()),
        bad => {
            Err(Failure::operating(format!("{bad} of {} members have no usable superblock", examined.len())))
        }
    }
}

fn examine(path: &Path) -> Examined<'_> {
    match Device::open_to_read(path) {
        Ok(device) => {
            Examined { path, device_bytes: Some(device.bytes()), superblock: scan::superblock(&device) }
        }
        Err(error) => {
            Examined { path, device_bytes: None, superblock: scan::not_found(path, &error).superblock }
        }
    }
}

/// The word for a kind of trouble, as it stands in the JSON.
fn fault_word(error: &SuperblockError) -> &'static str {
    match error.fault() {
        Fault::Unreadable => "unreadable",
        Fault::Absent => "absent",
        Fault::Damaged => "damaged",
        Fault::Unsupported => "unsupported",
        Fault::TooSmall => "too_small",
    }
}
