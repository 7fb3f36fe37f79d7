//! `uraid assemble`: finds the arrays among the block devices, or the one of some devices, says of each in one
//! sentence whether it can be started, and writes the configurations by which services start them.
//!
//! A volume of uraid is a configuration, `/etc/uraid/NAME.toml`, and the service `uraid@NAME`. So where
//! `mdadm --assemble` makes a device, this makes a configuration, with `--write`; without it nothing is changed, on
//! disks or elsewhere. mdadm.conf is asked as mdadm asks it: which devices to look at, what an array is to be called,
//! which arrays are to be left alone.
//!
//! Nothing is claimed: what is said of a device may be otherwise a moment later. The daemon claims its members before
//! it believes anything.

mod arrays;
mod devices;
mod json;
mod mdadm_conf;
mod patterns;
mod text;
mod write;

use std::path::{Path, PathBuf};

use uraid_config::VolumeName;

use crate::cli::AssembleArgs;
use crate::failure::Failure;
use crate::out;
use arrays::{Array, Verdict};
use mdadm_conf::MdadmConf;

pub use json::{ArrayReport, AssembleDocument};

/// What was found.
struct Findings {
    arrays: Vec<Array>,
    /// What else a person should know: devices with a superblock that cannot be used, lines of mdadm.conf that no
    /// array fits.
    notes: Vec<String>,
}

/// Looks, tells, and with `--write` writes.
///
/// # Errors
/// Nothing was found, what was named cannot be started, or a configuration could not be written. What was found is
/// told all the same.
pub fn run(args: &AssembleArgs) -> Result<(), Failure> {
    let mut findings = if args.scan { scan(args)? } else { named(args)? };
    let failures = if args.write { write_all(args, &mut findings) } else { Vec::new() };
    if args.json {
        out::print(&(json::document(&findings, args)? + "\n"))?;
    } else {
        out::print(&text::all(&findings, args))?;
        for note in &findings.notes {
            eprintln!("uraid: {note}");
        }
    }
    if !failures.is_empty() {
        return Err(Failure::operating(failures.join("\n")));
    }
    match findings.arrays.as_slice() {
        [] if args.scan => Err(Failure::operating("no array was found among the devices")),
        [only] if !args.scan && !only.can_be_served() => Err(Failure::operating(only.sentence())),
        _ => Ok(()),
    }
}

/// All arrays of the machine, or those of the names that were given.
fn scan(args: &AssembleArgs) -> Result<Findings, Failure> {
    let conf = MdadmConf::read(args.config.as_deref()).map_err(Failure::operating)?;
    let candidates = devices::scan(&conf.devices).map_err(Failure::operating)?;
    let mut findings = arrays::all(candidates, &conf, &args.directory);
    let names: Vec<VolumeName> =
        args.operands.iter().map(|operand| name(operand)).collect::<Result<_, _>>()?;
    for name in &names {
        let known = |array: &Array| array.name == *name || name.matches(&array.superblock.name());
        if !findings.arrays.iter().any(known) {
            return Err(Failure::operating(format!(
                "no array {:?} was found among the devices",
                name.as_str()
            )));
        }
    }
    let wanted = |array: &Array| {
        let named = |name: &VolumeName| array.name == *name || name.matches(&array.superblock.name());
        (names.is_empty() || names.iter().any(named))
            && args.uuid.is_none_or(|uuid| uuid.0 == array.superblock.set_uuid().0)
    };
    findings.arrays.retain(wanted);
    Ok(findings)
}

/// The one array of some devices, under a name.
fn named(args: &AssembleArgs) -> Result<Findings, Failure> {
    let [first, members @ ..] = args.operands.as_slice() else {
        return Err(usage());
    };
    if members.is_empty() {
        return Err(usage());
    }
    let name = name(first)?;
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
    };
    let paths: Vec<PathBuf> = members.iter().map(absolute).collect::<Result<_, _>>()?;
    let array = arrays::of(devices::named(&paths), name, args.uuid, &args.directory)?;
    Ok(Findings { arrays: vec![array], notes: Vec::new() })
}

fn usage() -> Failure {
    let text = "name the volume and then its members, or let --scan find all of them: `uraid assemble NAME MEMBER...`, \
                `uraid assemble --scan`";
    Failure::Usage(text.to_owned())
}

fn name(operand: &Path) -> Result<VolumeName, Failure> {
    operand
        .to_string_lossy()
        .parse()
        .map_err(|error| Failure::Usage(format!("{}: {error}", operand.display())))
}

/// Writes what can be written; the failures.
fn write_all(args: &AssembleArgs, findings: &mut Findings) -> Vec<String> {
    let mut failures = Vec::new();
    for array in findings.arrays.iter_mut().filter(|array| matches!(array.verdict, Verdict::Startable(_))) {
        if let Some(file) = &array.configuration {
            // By which it is served; a second one would only be in the way. Named, it is refused.
            if !args.scan {
                let next = text::next(array, args).unwrap_or_default();
                failures.push(format!(
                    "{} is for this array already, so nothing was written. Next: {next}",
                    file.display()
                ));
            }
            continue;
        }
        match write::configuration(&args.directory, array, args.device.0) {
            Ok(file) => {
                array.configuration = Some(file);
                array.written = true;
            }
            Err(why) => failures.push(why),
        }
    }
    failures
}
