//! `uraid generate`: what a package holds beside the program, made from the program: manual pages and
//! completions.
//!
//! It is hidden, because it is asked by whoever builds a package. `pages` makes the pages of the commands
//! from the definition of the command line, `toml_page` makes uraid.toml(5) from the example configuration,
//! and uraid@.service(8) is written by hand, beside the unit that it explains. `roff` knows how text is
//! written so that man(1) shows it as it was.

mod pages;
mod roff;
mod toml_page;

use std::fs;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::cli::{Cli, GenerateArgs};
use crate::failure::Failure;

/// The page of the unit, by hand. `@VERSION@` and `@DATE@` stand for what the others say there.
const UNIT_PAGE: &str = include_str!("../../../../systemd/uraid@.service.8");

/// A file: its name, and what is in it.
type File = (String, String);

/// Where the pages say that they come from.
#[derive(Clone, Copy, Debug)]
struct Imprint<'a> {
    /// The day, as `2026-11-28`.
    date: &'a str,
}

/// Writes what is asked for; directories are made, files replaced.
///
/// # Errors
/// The date is none, or a file cannot be written.
pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    if let (Some(directory), Some(date)) = (&args.man, &args.date) {
        if !is_date(date) {
            return Err(Failure::Usage(format!("--date {date}: a date looks like 2026-11-28")));
        }
        for (name, text) in all_pages(Imprint { date }) {
            write(directory, &name, text.as_bytes())?;
        }
    }
    if let Some(directory) = &args.completions {
        for (name, text) in completions() {
            write(directory, &name, &text)?;
        }
    }
    Ok(())
}

/// Every page of the package.
fn all_pages(imprint: Imprint<'_>) -> Vec<File> {
    let unit = UNIT_PAGE.replace("@VERSION@", env!("CARGO_PKG_VERSION")).replace("@DATE@", imprint.date);
    let mut all = pages::of_commands(imprint);
    all.push(("uraid.toml.5".to_owned(), toml_page::page(uraid_config::EXAMPLE, imprint)));
    all.push(("uraid@.service.8".to_owned(), unit));
    all
}

/// The completions of the shells that Debian has, under the names that their shells look for.
fn completions() -> Vec<(String, Vec<u8>)> {
    let shells = Shell::value_variants().iter().copied();
    let wanted = shells.filter_map(|shell| match shell {
        Shell::Bash => Some((shell, "uraid")),
        Shell::Zsh => Some((shell, "_uraid")),
        Shell::Fish => Some((shell, "uraid.fish")),
        _ => None,
    });
    wanted
        .map(|(shell, name)| {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut public_command(), "uraid", &mut text);
            (name.to_owned(), text)
        })
        .collect()
}

/// The command line as far as it is shown to people.
fn public_command() -> clap::Command {
    let command = Cli::command().disable_help_subcommand(true);
    let hidden: Vec<String> = command
        .get_subcommands()
        .filter(|sub| sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    let public: Vec<clap::Command> = command
        .get_subcommands()
        .filter(|sub| !hidden.iter().any(|name| name == sub.get_name()))
        .cloned()
        .collect();
    let about = command.get_about().cloned().unwrap_or_default();
    let shown = clap::Command::new("uraid").version(env!("CARGO_PKG_VERSION")).about(about);
    shown.disable_help_subcommand(true).subcommand_required(true).subcommands(public)
}

fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut digits =
        |len: usize| parts.next().is_some_and(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()));
    digits(4) && digits(2) && digits(2) && parts.next().is_none()
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let path = directory.join(name);
    let written = fs::create_dir_all(directory).and_then(|()| fs::write(&path, bytes));
    written.map_err(|error| Failure::operating(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
