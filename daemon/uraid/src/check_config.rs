//! `uraid check-config`: reads a configuration and says what it would do.

use std::path::Path;

use raid6_simd::Kernel;

use crate::commands::load;
use crate::failure::Failure;
use crate::out;

/// Checks the file without looking at the members.
///
/// # Errors
/// It cannot be read or has problems; all of them are in the text.
pub fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    let mut text = format!("{}: no problem found; {} members\n", file.display(), config.members.len());
    if config.assemble.force {
        text +=
            "note: [assemble] force = true accepts wrong data after a crash; take it out after one start\n";
    }
    if config.insecure {
        text += "note: insecure = true lets everybody who can reach an address read and write the volume\n";
    }
    if let Some(note) = kernel_note(config.kernel.word()) {
        text += &note;
    }
    out::print(&text)
}

/// What keeps this machine from serving with the kernels of this word. The file may be meant for another.
fn kernel_note(word: &str) -> Option<String> {
    let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.name() == word && !kernel.is_available())?;
    let lacks = kernel.lacks().join(", ");
    Some(format!(
        "note: kernel = {word:?} cannot run on this CPU, which lacks {lacks}; see `uraid kernels`\n"
    ))
}
