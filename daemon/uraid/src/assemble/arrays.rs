//! From devices to arrays: which belong together, what they are to be called, and whether they can be started.

use std::path::{Path, PathBuf};

use md_format::{AssembleError, AssembleOptions, Assembly, Fault, Found, Superblock, Uuid, assemble};
use uraid_config::{ArrayUuid, Config, VolumeName};

use super::devices::Candidate;
use super::mdadm_conf::{ArrayLine, MdadmConf};
use super::{Findings, text};
use crate::assembly::unsupported_shape;
use crate::device::identity_of;
use crate::failure::Failure;
use crate::udev::configuration_with;

/// An array of which at least one member was found.
#[derive(Debug)]
pub(super) struct Array {
    /// What its service is to be called, or is.
    pub(super) name: VolumeName,
    /// The newest superblock.
    pub(super) superblock: Superblock,
    pub(super) candidates: Vec<Candidate>,
    pub(super) verdict: Verdict,
    /// The line of mdadm.conf that names it, as `FILE:LINE`, unless that says to ignore it.
    pub(super) line: Option<String>,
    /// Spares that this line expects.
    pub(super) spares_expected: Option<u32>,
    /// Whether the host in its name is this one; none if there is no host in it.
    pub(super) local: Option<bool>,
    /// The configuration that is for it.
    pub(super) configuration: Option<PathBuf>,
    /// Whether that was written just now.
    pub(super) written: bool,
    /// Members that it does not list, so that its service would start the array without them.
    pub(super) unlisted: Vec<PathBuf>,
}

/// Whether an array can be started.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Yes.
    Startable(Box<Assembly>),
    /// Something has it; in words.
    InUse(String),
    /// mdadm.conf says, at this place, that it is to be left alone.
    Ignored(String),
    /// No; in words, which may be several lines.
    Refused(String),
}

impl Array {
    /// Whether its service can be expected to start.
    pub(super) fn can_be_served(&self) -> bool {
        matches!(self.verdict, Verdict::Startable(_))
    }

    /// In one sentence, what can be done with it.
    pub(super) fn sentence(&self) -> String {
        let judged = self.judged();
        match &self.configuration {
            Some(file) if !self.unlisted.is_empty() => format!(
                "{judged}; but {} does not list {}, and its service would start without it",
                file.display(),
                text::paths(&self.unlisted)
            ),
            _ => judged,
        }
    }

    /// The same without a look at its configuration.
    fn judged(&self) -> String {
        match &self.verdict {
            Verdict::Startable(assembly) if assembly.warnings.is_empty() => {
                format!(
                    "it can be started: all {} members are there and in sync",
                    self.superblock.raid_disks()
                )
            }
            Verdict::Startable(assembly) => {
                let warnings: Vec<String> = assembly.warnings.iter().map(ToString::to_string).collect();
                format!("it can be started, but {}", warnings.join("; "))
            }
            Verdict::InUse(by) => format!("it is in use: {by}"),
            Verdict::Ignored(place) => format!(
                "it is left alone, as {place} says (`<ignore>`); name it and its members to take it all the same"
            ),
            Verdict::Refused(why) => format!(
                "it cannot be started: {}",
                why.lines().next().unwrap_or_default().trim_end_matches(':')
            ),
        }
    }

    /// The host in its name.
    pub(super) fn host(&self) -> Option<String> {
        self.superblock.name().split_once(':').map(|(host, _)| host.to_owned())
    }
}

/// Puts together what belongs together.
pub(super) fn all(candidates: Vec<Candidate>, conf: &MdadmConf, directory: &Path) -> Findings {
    let mut notes = conf.notes.clone();
    let mut groups: Vec<(Uuid, Vec<Candidate>)> = Vec::new();
    for candidate in candidates {
        match &candidate.found.superblock {
            Ok(superblock) => {
                let uuid = superblock.set_uuid();
                match groups.iter_mut().find(|(known, _)| *known == uuid) {
                    Some((_, members)) => members.push(candidate),
                    None => groups.push((uuid, vec![candidate])),
                }
            }
            // Most devices are no members, and some cannot be read: an empty drive, another's.
            Err(error) if matches!(error.fault(), Fault::Damaged | Fault::Unsupported) => {
                notes.push(format!("{}: {error}", candidate.path.display()));
            }
            Err(_) => {}
        }
    }
    let host = Host::of(conf);
    let mut arrays: Vec<Array> = groups
        .into_iter()
        .filter_map(|(uuid, members)| scanned(uuid, members, conf, &host, directory))
        .collect();
    // Whoever was named in mdadm.conf, or is at home here, keeps his name where two have the same.
    arrays.sort_by_key(|array| (array.line.is_none(), array.local == Some(false), array.name.clone()));
    name_apart(&mut arrays);
    notes.extend(conf.arrays.iter().filter_map(|line| unfitting(line, &arrays, conf, &host)));
    Findings { arrays, notes }
}

/// The host whose arrays are this machine's.
#[derive(PartialEq, Eq, Debug)]
struct Host {
    /// Empty for no one's.
    name: String,
    /// Those of others are as good.
    any: bool,
}

impl Host {
    fn of(conf: &MdadmConf) -> Self {
        let system = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = match conf.homehost.as_deref() {
            Some(name) if name.eq_ignore_ascii_case("<none>") => String::new(),
            Some(name) if !name.eq_ignore_ascii_case("<system>") => name.to_owned(),
            _ => system().trim().to_owned(),
        };
        Host { name, any: conf.any_host }
    }
}

fn scanned(
    uuid: Uuid,
    candidates: Vec<Candidate>,
    conf: &MdadmConf,
    host: &Host,
    directory: &Path,
) -> Option<Array> {
    let superblock = newest(&candidates, uuid)?;
    let paths: Vec<&Path> = candidates.iter().map(|one| one.path.as_path()).collect();
    let line = conf.line_of(&superblock, &paths, &host.name);
    let listed = line.filter(|line| !line.ignored);
    let by_line = listed.and_then(ArrayLine::wanted_name).map(str::to_owned);
    let name = VolumeName::nearest(&by_line.unwrap_or_else(|| superblock.short_name()));
    let ignored = line.filter(|line| line.ignored).map(|line| line.place.clone());
    let mut array = judge(candidates, superblock, name, Some(uuid), directory);
    array.line = listed.map(|line| line.place.clone());
    array.spares_expected = listed.and_then(|line| line.spares);
    array.local = array.host().map(|named| host.any || host.name == named);
    if let (Some(place), Verdict::Startable(_), None) = (ignored, &array.verdict, &array.configuration) {
        array.verdict = Verdict::Ignored(place);
    }
    Some(array)
}

/// The one array of some devices.
///
/// # Errors
/// None of them has a superblock that can be used.
pub(super) fn of(
    candidates: Vec<Candidate>,
    name: VolumeName,
    uuid: Option<ArrayUuid>,
    directory: &Path,
) -> Result<Array, Failure> {
    let wanted = uuid.map(|uuid| Uuid(uuid.0));
    let judged = verdict(&candidates, wanted);
    let of_judged = judged.as_ref().ok().map(|assembly| assembly.superblock.set_uuid());
    let first =
        || candidates.iter().find_map(|one| one.found.superblock.as_ref().ok()).map(Superblock::set_uuid);
    let superblock = of_judged.or(wanted).or_else(first).and_then(|uuid| newest(&candidates, uuid));
    let Some(superblock) = superblock else {
        let why = judged.err().map_or_else(|| "no member was found".to_owned(), |error| error.to_string());
        return Err(Failure::operating(why));
    };
    Ok(judge(candidates, superblock, name, wanted, directory))
}

fn judge(
    candidates: Vec<Candidate>,
    superblock: Superblock,
    name: VolumeName,
    wanted: Option<Uuid>,
    directory: &Path,
) -> Array {
    let uuid = superblock.set_uuid();
    let of_array = |one: &&Candidate| one.found.superblock.as_ref().is_ok_and(|sb| sb.set_uuid() == uuid);
    let held = candidates.iter().filter(of_array).find_map(|one| {
        let by = one.held.as_ref()?;
        Some(format!("{} is {by}", one.path.display()))
    });
    let verdict = match (held, verdict(&candidates, wanted)) {
        (Some(by), _) => Verdict::InUse(by),
        (None, Ok(assembly)) => match unsupported_shape(&assembly.superblock) {
            None => Verdict::Startable(Box::new(assembly)),
            Some(shape) => Verdict::Refused(format!("{shape}; use Linux md for this array")),
        },
        (None, Err(error)) => Verdict::Refused(error.to_string()),
    };
    let names: Vec<&Path> = candidates.iter().flat_map(|one| [one.path.as_path(), &one.stable]).collect();
    let configuration = configuration_with(directory, &names, Some(ArrayUuid(uuid.0)));
    let unlisted = match (&configuration, &verdict) {
        (Some(file), Verdict::Startable(assembly)) => unlisted(file, assembly, &candidates),
        _ => Vec::new(),
    };
    let served = configuration.as_ref().and_then(|file| file.file_stem()?.to_str()?.parse().ok());
    Array {
        name: served.unwrap_or(name),
        superblock,
        candidates,
        verdict,
        line: None,
        spares_expected: None,
        local: None,
        configuration,
        written: false,
        unlisted,
    }
}

/// The members that a configuration does not list, by any of their names.
fn unlisted(file: &Path, assembly: &Assembly, candidates: &[Candidate]) -> Vec<PathBuf> {
    let Ok(config) = Config::load(file) else { return Vec::new() };
    let listed: Vec<_> = config.members.iter().filter_map(|path| identity_of(path)).collect();
    let taken = assembly.members.iter().filter_map(|member| candidates.get(member.found));
    taken
        .filter(|one| one.found.identity.is_none_or(|identity| !listed.contains(&identity)))
        .map(|one| one.stable.clone())
        .collect()
}

fn verdict(candidates: &[Candidate], array: Option<Uuid>) -> Result<Assembly, AssembleError> {
    let found: Vec<Found> = candidates.iter().map(|one| one.found.clone()).collect();
    assemble(&found, AssembleOptions { force: false, array })
}

fn newest(candidates: &[Candidate], uuid: Uuid) -> Option<Superblock> {
    let sound = candidates.iter().filter_map(|one| one.found.superblock.as_ref().ok());
    sound
        .filter(|superblock| superblock.set_uuid() == uuid)
        .max_by_key(|superblock| superblock.events())
        .cloned()
}

/// Gives arrays that would have the same name different ones, as mdadm does: the later one gets a number.
fn name_apart(arrays: &mut [Array]) {
    for at in 1..arrays.len() {
        let (before, rest) = arrays.split_at_mut(at);
        let Some(array) = rest.first_mut() else { return };
        let taken = |name: &VolumeName| before.iter().any(|other| other.name == *name);
        // One that is served has its name already.
        if array.configuration.is_some() || !taken(&array.name) {
            continue;
        }
        let base: String = array.name.as_str().chars().take(24).collect();
        let free =
            (0..=before.len()).map(|n| VolumeName::nearest(&format!("{base}_{n}"))).find(|name| !taken(name));
        array.name = free.unwrap_or_else(|| array.name.clone());
    }
}

/// What to say of a line that names no array.
fn unfitting(line: &ArrayLine, arrays: &[Array], conf: &MdadmConf, host: &Host) -> Option<String> {
    if line.ignored || line.passed_over {
        return None;
    }
    let (place, title) = (&line.place, line.title());
    if !line.tells_which() {
        return Some(format!("{place}: {title} does not say which array that is, so the line is not used"));
    }
    let mut fitting = arrays.iter().filter_map(|array| {
        let paths: Vec<&Path> = array.candidates.iter().map(|one| one.path.as_path()).collect();
        let fits = line.fits(&array.superblock, &paths, &host.name);
        let first = conf.line_of(&array.superblock, &paths, &host.name).filter(|_| fits)?;
        Some((array, &first.place))
    });
    if let Some((array, first)) = fitting.next() {
        let used = std::iter::once(first).chain(fitting.map(|(_, first)| first)).any(|first| first == place);
        return (!used).then(|| {
            format!("{place}: {title} is not used, because {first} says before it what {} is", array.name)
        });
    }
    Some(match arrays.iter().find(|array| line.uuid == Some(array.superblock.set_uuid())) {
        Some(array) => format!(
            "{place}: {title} says other things of the array {} than its superblocks and devices do, so the line is \
             not used",
            array.name
        ),
        None => format!("{place}: {title} was not found among the devices"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_mdadm_takes_for_it() {
        let host = |word: Option<&str>| {
            Host::of(&MdadmConf { homehost: word.map(str::to_owned), ..MdadmConf::default() })
        };
        assert_eq!(host(Some("<none>")), Host { name: String::new(), any: false });
        assert_eq!(host(Some("here")).name, "here");
        assert_eq!(host(Some("<SYSTEM>")), host(None));
        assert!(Host::of(&MdadmConf { any_host: true, ..MdadmConf::default() }).any);
    }
}
