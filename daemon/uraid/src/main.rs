//! The uraid command; everything is in the library beside it.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use uraid::cli::Cli;

fn main() -> ExitCode {
    start_log();
    match uraid::commands::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("uraid: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The log goes to standard error, in colour if a person reads it there. URAID_LOG says how much of it, or
/// RUST_LOG, which some people have set for everything.
fn start_log() {
    let filter = EnvFilter::try_from_env("URAID_LOG").or_else(|_| EnvFilter::try_from_default_env());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .init();
}
