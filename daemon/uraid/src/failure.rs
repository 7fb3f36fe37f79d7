//! How a command fails, as far as its exit code tells.

use std::fmt;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for something that makes no sense; nothing was tried.
    Usage(String),
    /// It was tried, or checked, and failed.
    Operating(anyhow::Error),
}

impl Failure {
    /// A failure with this text.
    pub fn operating(text: impl fmt::Display) -> Self {
        Failure::Operating(anyhow::anyhow!("{text}"))
    }

    /// 1 for what failed, 2 for what was asked wrongly.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Operating(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) => f.write_str(text),
            Failure::Operating(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Operating(error)
    }
}
