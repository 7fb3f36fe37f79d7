//! `uraid serve`: the daemon.

use uraid_config::Config;

use crate::assembly;
use crate::failure::Failure;

/// Serves the volume until it is told to stop.
///
/// # Errors
/// The array cannot be put together, an address cannot be bound, or it did not stop cleanly.
pub fn run(config: Config) -> Result<(), Failure> {
    let volume = assembly::open(&config)?;
    let name = volume.assembly.superblock.short_name();
    Err(Failure::operating(format!("serving {name} is not built into this binary")))
}
