//! `uraid status --watch`: the state of an array, again and again.
//!
//! On a terminal it is a live view (`screen`), otherwise one block of text after the other; `view` makes
//! the lines of both. A daemon that goes away, as one that is being restarted, is waited for.

mod screen;
mod view;

use std::io::{ErrorKind, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::control::client::Client;
use crate::control::protocol::Status;
use crate::failure::Failure;

/// The longest that a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen, and when.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    at: Instant,
    status: Status,
}

/// Shows the array behind `client` every `interval`, until it is told to end.
///
/// # Errors
/// The daemon does not answer the first time, or the terminal cannot be used.
pub fn run(client: Client, interval: Duration) -> Result<(), Failure> {
    let client = client.with_patience(PATIENCE);
    let first = Look { status: client.status()?, at: Instant::now() };
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        return screen::show(client, first, interval);
    }
    let mut next = Ok(first);
    let mut before: Option<Look> = None;
    loop {
        let text = match &next {
            Ok(look) => view::text(before.as_ref(), look),
            Err(trouble) => format!("{trouble}\n"),
        };
        if !print(&(text + "\n"))? {
            return Ok(());
        }
        // Of a daemon that was started anew, all is new; the view sees that.
        before = next.ok().or(before);
        thread::sleep(interval);
        next = client.status().map(|status| Look { at: Instant::now(), status });
    }
}

/// Says whether somebody still reads.
fn print(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::operating(format!("cannot write to standard output: {error}"))),
    }
}
