//! `uraid check-config`: reads a configuration and says what it would do.

use std::path::Path;

use crate::commands::load;
use crate::failure::Failure;

/// Checks the file without looking at the members.
///
/// # Errors
/// It cannot be read or has problems; all of them are in the text.
pub fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    println!("{}: no problem found; {} members", file.display(), config.members.len());
    if config.assemble.force {
        println!(
            "note: [assemble] force = true accepts wrong data after a crash; take it out after one start"
        );
    }
    if config.insecure {
        println!("note: insecure = true lets everybody who can reach an address read and write the volume");
    }
    Ok(())
}
