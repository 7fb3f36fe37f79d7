//! `uraid examine`: what the superblocks of members say, in the shape that mdadm made familiar, or as
//! JSON; what lies beside them; and whether the arrays that they make can be started.

mod beside;
mod json;
mod text;
mod verdict;

pub use json::{
    BadBlocksReport, BadRange, BitmapReport, ExamineDocument, MemberReport, PplReport, ReshapeReport,
    SuperblockReport,
};
pub use verdict::ArrayVerdict;

use std::path::Path;

use md_format::{Fault, Found, SuperblockError};

use crate::cli::ExamineArgs;
use crate::device::Device;
use crate::failure::Failure;
use crate::{holders, out, scan};

/// What a look at one member gave.
struct Examined<'a> {
    path: &'a Path,
    /// Its size, if it could be opened.
    device_bytes: Option<u64>,
    found: Found,
    /// Who has it, if it is a member and anybody is seen.
    held: Option<String>,
}

/// Prints what each member says, and then the verdict over each array.
///
/// # Errors
/// At least one member has no usable superblock; the others were printed all the same.
pub fn run(args: &ExamineArgs) -> Result<(), Failure> {
    let examined: Vec<Examined<'_>> = args.members.iter().map(|path| examine(path)).collect();
    let verdicts = verdict::verdicts(&examined);
    if args.json {
        out::print(&(json::document(&examined, verdicts)? + "\n"))?;
    } else {
        for member in &examined {
            match &member.found.superblock {
                Ok(superblock) => {
                    out::print(&text::member(member.path, superblock, &member.found.areas))?;
                }
                Err(error) => eprintln!("uraid: {}: {error}", member.path.display()),
            }
        }
        for verdict in &verdicts {
            out::print(&format!("\n{}", verdict::text(verdict)))?;
        }
    }
    match examined.iter().filter(|member| member.found.superblock.is_err()).count() {
        0 => Ok(()),
        bad => {
            Err(Failure::operating(format!("{bad} of {} members have no usable superblock", examined.len())))
        }
    }
}

fn examine(path: &Path) -> Examined<'_> {
    match Device::open_to_read(path) {
        Ok(device) => {
            let found = scan::found(&device);
            // Of what is no member nothing is asked: that would look at every process for each of them.
            let held = found.superblock.as_ref().ok().and_then(|_| holders::seen(&device));
            Examined { path, device_bytes: Some(device.bytes()), found, held }
        }
        Err(error) => Examined { path, device_bytes: None, found: scan::not_found(path, &error), held: None },
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
