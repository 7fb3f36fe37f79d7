//! Which of the named devices make an array, and whether it may be started.

use crate::assemble_types::{AssembleError, AssembleOptions, Assembly, Found};

/// Decides which devices make an array, in whatever order they are named.
///
/// # Errors
/// There is no array, there are several, it has an unsupported feature, too many members are missing, or
/// it is dirty and degraded.
pub fn assemble(found: &[Found], options: AssembleOptions) -> Result<Assembly, AssembleError> {
    let _ = found;
    Err(AssembleError::NoMembers { wanted: options.array, rejected: Vec::new() })
}
