//! `uraid check-config`: reads a configuration and says what it would do.

use std::path::Path;

use engine_dsa::discover::scan;
use raid6_simd::Kernel;
use uraid_config::{Config, Dsa};
use uraid_shard::paths;

use crate::commands::load;
use crate::failure::Failure;
use crate::{out, serve};

/// Checks the file without looking at the members. What it says of other files and of accounts may hold on
/// another machine or for another user, so what is wrong with these is a note; `strict`, it is an error.
///
/// # Errors
/// It cannot be read or has problems; all of them are in the text.
pub fn run(file: &Path, strict: bool) -> Result<(), Failure> {
    let config = load(file)?;
    if strict {
        serve::check(&config)?;
    }
    let mut text = format!("{}: no problem found; {} members\n", file.display(), config.members.len());
    if config.assemble.force {
        text +=
            "note: [assemble] force = true accepts wrong data after a crash; take it out after one start\n";
    }
    if config.insecure {
        text += "note: insecure = true lets everybody who can reach an address read and write the volume\n";
    }
    if let Some(address) = config.tls.lets_in_strangers(&config.listen) {
        text += &format!(
            "note: {address} is encrypted, and without `client_ca` in [tls] everybody who can reach it can read \
             and write the volume\n"
        );
    }
    for note in serve::file_notes(&config) {
        text += &format!("note: {note}\n");
    }
    if let Some(note) = kernel_note(config.kernel.word()) {
        text += &note;
    }
    if let Some(note) = dsa_note(&config) {
        text += &note;
    }
    out::print(&text)
}

/// What keeps this machine from meeting the requirement of a work queue, as far as can be seen without
/// opening one. The file may be meant for another.
fn dsa_note(config: &Config) -> Option<String> {
    if config.engines.dsa != Dsa::Require {
        return None;
    }
    let only = &config.engines.queues;
    let found = scan(&paths(config.engines.dsa_sysfs.clone(), config.engines.dsa_dev.clone()));
    let named = |name: &str| only.is_empty() || only.iter().any(|queue| queue.as_str() == name);
    let usable = found.queues().any(|queue| queue.usable() && named(&queue.name));
    let note =
        "note: dsa = \"require\", and no DSA work queue of this machine can be used; see `uraid engines`\n";
    (!usable).then(|| note.to_owned())
}

/// What keeps this machine from serving with the kernels of this word. The file may be meant for another.
fn kernel_note(word: &str) -> Option<String> {
    let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.name() == word && !kernel.is_available())?;
    let lacks = kernel.lacks().join(", ");
    Some(format!(
        "note: kernel = {word:?} cannot run on this CPU, which lacks {lacks}; see `uraid kernels`\n"
    ))
}
