//! Standard output. A reader that went away (`uraid examine ... | head`) is no failure of ours, a full
//! disk behind a redirection is.

use std::io::{ErrorKind, Write};

use crate::failure::Failure;

/// Prints `text` as it is.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::operating(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
