//! `uraid create`: makes an array out of members that hold nothing.
//!
//! Order: all members are claimed and checked, the superblocks are planned, then everything is written,
//! synced and read back. What goes wrong before the writing leaves no trace, what goes wrong while
//! writing is taken back by the [`Journal`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use md_format::{
    CreateError, CreateParams, IntentBitmap, Layout, Level, Minor, SECTOR, Superblock, Uuid, plan_create,
    unsupported,
};
use nix::sys::signal::{SigSet, Signal};
use uraid_config::Size;
use uraid_core::{Geometry, GeometryError, MAX_MEMBERS};

use crate::assembly::WRITERS_GONE;
use crate::claims;
use crate::cli::{BitmapArg, CreateArgs, LevelArg, MetadataArg, PolicyArg};
use crate::device::{Access, Device, DeviceKind, identity_of};
use crate::failure::Failure;
use crate::human;
use crate::journal::Journal;
use crate::probe::{self, Finding};
use crate::{out, scan};
use beside::Beside;

mod beside;

/// From this size used of a member on it gets a bitmap unless told otherwise, as mdadm has it.
const BITMAP_ABOVE: u64 = 100 << 30;

/// A member as it is before anything is written.
enum Candidate {
    /// It exists and is claimed.
    Existing {
        /// The device.
        device: Device,
        /// What speaks against overwriting it.
        findings: Vec<Finding>,
        /// Whether all its bytes are known to be zero.
        zero: bool,
    },
    /// It will be made.
    New {
        /// Where.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// Makes the array that `args` describe.
///
/// # Errors
/// A wrong question (no array can be like that), a member that cannot be used, or a write that failed.
/// In all cases the members are as they were.
pub fn run(args: &CreateArgs) -> Result<(), Failure> {
    let (level, layout) = level_and_layout(args)?;
    check_shape(args, level, layout)?;
    let members = inspect_all(args)?;
    let clean = args.assume_clean || members.iter().all(Candidate::is_zero);
    let plan = plan(args, level, layout, &members, clean)?;
    let beside = beside::of(&plan, args.bitmap_chunk.map(Size::bytes)).map_err(Failure::Usage)?;
    if !args.force {
        refuse_valuable(&members)?;
    }
    let zero = members.iter().all(Candidate::is_zero);
    let made: Vec<bool> = members.iter().map(|member| matches!(member, Candidate::New { .. })).collect();
    if let Some(first) = plan.first() {
        claims::note(first.set_uuid(), &first.short_name());
    }
    write_all(members, &plan, &beside)?;
    summary(args, &plan, &made, zero)
}

impl Candidate {
    fn path(&self) -> &Path {
        match self {
            Candidate::Existing { device, .. } => device.path(),
            Candidate::New { path, .. } => path,
        }
    }

    fn sectors(&self) -> u64 {
        match self {
            Candidate::Existing { device, .. } => device.sectors(),
            Candidate::New { bytes, .. } => bytes / SECTOR,
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            Candidate::Existing { zero, .. } => *zero,
            Candidate::New { .. } => true,
        }
    }
}

fn level_and_layout(args: &CreateArgs) -> Result<(Level, Layout), Failure> {
    let level = match args.level {
        LevelArg::Raid4 => Level::Raid4,
        LevelArg::Raid5 => Level::Raid5,
        LevelArg::Raid6 => Level::Raid6,
    };
    let Some(name) = &args.layout else { return Ok((level, Layout::default_for(level))) };
    let layout = Layout::from_name(level, name).ok_or_else(|| {
        let names = Layout::all(level).iter().map(|layout| layout.name()).collect::<Vec<_>>().join(", ");
        Failure::Usage(format!("{level} has no layout {name:?}; it has: {names}"))
    })?;
    Ok((level, layout))
}

/// What is wrong whatever the members are; found before any of them is touched. The array core has the
/// last word, so that what is created can also be served.
fn check_shape(args: &CreateArgs, level: Level, layout: Layout) -> Result<(), Failure> {
    let members = u16::try_from(args.members.len()).unwrap_or(u16::MAX);
    let chunk = args.chunk.bytes();
    Geometry::new(level, layout, members, chunk, chunk).map_err(|error| match error {
        GeometryError::Members { least, .. } => {
            let named = args.members.len();
            Failure::Usage(format!("{level} needs {least} to {MAX_MEMBERS} members, {named} were named"))
        }
        GeometryError::Chunk(_) => Failure::Usage(format!(
            "a chunk of {} is not possible: take a power of two from 4K to 16M",
            args.chunk
        )),
        other => Failure::Usage(other.to_string()),
    })?;
    if args.size.is_some_and(|size| !size.bytes().is_multiple_of(SECTOR)) {
        return Err(Failure::Usage("--size must be a multiple of 512 bytes".to_owned()));
    }
    Ok(())
}

/// Looks at every member; all that is wrong is told at once.
fn inspect_all(args: &CreateArgs) -> Result<Vec<Candidate>, Failure> {
    let mut members = Vec::new();
    let mut problems = Vec::new();
    let mut seen: Vec<(&Path, Option<(u64, u64)>)> = Vec::new();
    for path in &args.members {
        let identity = identity_of(path);
        let same = seen.iter().find(|(other, known)| *other == path || known.is_some() && *known == identity);
        let inspected = match same {
            Some((other, _)) if *other == path => Err("it is named twice".to_owned()),
            Some((other, _)) => Err(format!("it is the same device as {}", other.display())),
            None => inspect(path, args.size),
        };
        seen.push((path, identity));
        match inspected {
            Ok(member) => members.push(member),
            Err(why) => problems.push(format!("\n  {}: {why}", path.display())),
        }
    }
    if problems.is_empty() {
        return Ok(members);
    }
    Err(Failure::operating(format!("nothing was changed, because of:{}", problems.concat())))
}

fn inspect(path: &Path, size: Option<Size>) -> Result<Candidate, String> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => inspect_new(path, size),
        _ => inspect_existing(path),
    }
}

fn inspect_new(path: &Path, size: Option<Size>) -> Result<Candidate, String> {
    let size = size.ok_or("it does not exist; give --size to have it made as a sparse file")?;
    let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
    let parent = absolute.parent().ok_or("it has no directory")?;
    if !parent.is_dir() {
        return Err(format!("the directory {} does not exist", parent.display()));
    }
    // A mistyped device must not become a file that fills the memory.
    if parent.starts_with("/dev") && !parent.starts_with("/dev/shm") {
        return Err("there is no such device".to_owned());
    }
    Ok(Candidate::New { path: path.into(), bytes: size.bytes() })
}

fn inspect_existing(path: &Path) -> Result<Candidate, String> {
    let device = Device::claim(path, Access::Write).map_err(|error| error.to_string())?;
    // A write that a killed daemon left behind would land on what is created.
    device.wait_for_writers(WRITERS_GONE).map_err(|error| error.to_string())?;
    let findings = probe::findings(&device).map_err(|error| error.to_string())?;
    let zero = device.kind() == DeviceKind::File && findings.is_empty();
    Ok(Candidate::Existing { device, findings, zero })
}

fn refuse_valuable(members: &[Candidate]) -> Result<(), Failure> {
    let held: Vec<(PathBuf, Vec<Finding>)> = members
        .iter()
        .filter_map(|member| match member {
            Candidate::Existing { device, findings, .. } if !findings.is_empty() => {
                Some((device.path().into(), findings.clone()))
            }
            _ => None,
        })
        .collect();
    if held.is_empty() { Ok(()) } else { Err(Failure::operating(probe::refusal(&held))) }
}

fn plan(
    args: &CreateArgs,
    level: Level,
    layout: Layout,
    members: &[Candidate],
    clean: bool,
) -> Result<Vec<Superblock>, Failure> {
    let chunk_sectors =
        u32::try_from(args.chunk.bytes() / SECTOR).ok().filter(|_| args.chunk.bytes().is_multiple_of(SECTOR));
    let chunk_sectors = chunk_sectors.ok_or_else(|| {
        Failure::Usage(format!(
            "a chunk of {} is not possible: take a power of two from 4K to 16M",
            args.chunk
        ))
    })?;
    let sizes: Vec<u64> = members.iter().map(Candidate::sectors).collect();
    let device_uuids: Vec<Uuid> = members.iter().map(|_| random_uuid()).collect();
    let (bitmap, ppl) = consistency(args)?;
    let name = full_name(args)?;
    let params = CreateParams {
        level,
        layout,
        chunk_sectors,
        name: &name,
        members: &sizes,
        size_sectors: None,
        set_uuid: random_uuid(),
        device_uuids: &device_uuids,
        now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        clean,
        minor: match args.metadata {
            MetadataArg::V0 => Minor::V0,
            MetadataArg::V1 => Minor::V1,
            MetadataArg::V2 => Minor::V2,
        },
        bitmap: bitmap.unwrap_or(IntentBitmap::None),
        ppl,
    };
    let make = |params: &CreateParams<'_>| {
        plan_create(params).map_err(|error| match error {
            CreateError::MemberTooSmall { index, device_sectors, needed } => Failure::operating(format!(
                "{} is too small: it has {}, at least {} are needed; nothing was changed",
                members.get(index).map(Candidate::path).unwrap_or(Path::new("a member")).display(),
                human::bytes(device_sectors.saturating_mul(SECTOR)),
                human::bytes(needed.saturating_mul(SECTOR)),
            )),
            CreateError::TooLarge => Failure::operating(error),
            other => Failure::Usage(other.to_string()),
        })
    };
    let mut plan = make(&params)?;
    let used = plan.first().map_or(0, Superblock::size_sectors).saturating_mul(SECTOR);
    if bitmap.is_none() && !ppl && used > BITMAP_ABOVE {
        let with = make(&CreateParams { bitmap: IntentBitmap::Internal { chunk_bytes: None }, ..params })?;
        if with.first().and_then(unsupported).is_none() {
            plan = with;
        }
    }
    if let Some(what) = plan.first().and_then(unsupported) {
        return Err(Failure::Usage(format!(
            "an array with this cannot be served, so it is not made: {what}"
        )));
    }
    let size = plan.first().map_or(0, Superblock::size_sectors).saturating_mul(SECTOR);
    let roles = u16::try_from(plan.len()).unwrap_or(u16::MAX);
    Geometry::new(level, layout, roles, args.chunk.bytes(), size).map_err(Failure::operating)?;
    Ok(plan)
}

/// The bitmap that was asked for, none if nothing was said about it, and whether a partial parity log was.
fn consistency(args: &CreateArgs) -> Result<(Option<IntentBitmap>, bool), Failure> {
    let internal = IntentBitmap::Internal { chunk_bytes: args.bitmap_chunk.map(Size::bytes) };
    let (bitmap, ppl) = match (args.consistency_policy, args.bitmap) {
        (Some(PolicyArg::Ppl), Some(BitmapArg::Internal)) => {
            return Err(Failure::Usage("an array has a bitmap or a partial parity log, not both".to_owned()));
        }
        (Some(PolicyArg::Bitmap), Some(BitmapArg::None))
        | (Some(PolicyArg::Resync), Some(BitmapArg::Internal)) => {
            return Err(Failure::Usage("--bitmap and --consistency-policy contradict each other".to_owned()));
        }
        (Some(PolicyArg::Ppl), _) => (Some(IntentBitmap::None), true),
        (Some(PolicyArg::Bitmap), _) | (None, Some(BitmapArg::Internal)) => (Some(internal), false),
        (Some(PolicyArg::Resync), _) | (None, Some(BitmapArg::None)) => (Some(IntentBitmap::None), false),
        (None, None) => (args.bitmap_chunk.map(|_| internal), false),
    };
    if args.bitmap_chunk.is_some() && bitmap != Some(internal) {
        return Err(Failure::Usage("--bitmap-chunk is for an array with --bitmap internal".to_owned()));
    }
    Ok((bitmap, ppl))
}

/// The name as it stands in the superblock: `host:name` if both have room in 31 bytes, as mdadm has it. So are the
/// words that stand for no host and for this one.
fn full_name(args: &CreateArgs) -> Result<String, Failure> {
    let name = args.name.as_str();
    let told = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let is = |host: &str, words: &[&str]| words.iter().any(|word| host.eq_ignore_ascii_case(word));
    let host = match args.homehost.as_deref() {
        None => told(),
        Some(host) if is(host, &["<system>"]) => told(),
        Some(host) if is(host, &["", "none", "<none>", "<ignore>"]) => String::new(),
        Some(host) => host.to_owned(),
    };
    let plain = !host.contains(|c: char| c == '/' || c == ':' || c.is_control());
    if !plain && args.homehost.is_some() {
        return Err(Failure::Usage(format!(
            "--homehost {host:?}: the name of a host has neither `/` nor `:`"
        )));
    }
    let room = host.len() + 1 + name.len() < 32;
    Ok(match !host.is_empty() && plain && room && !name.contains(':') {
        true => format!("{host}:{name}"),
        false => name.to_owned(),
    })
}

fn random_uuid() -> Uuid {
    Uuid(*uuid::Uuid::new_v4().as_bytes())
}

/// Writes with the signals that end a program held back, so that Ctrl-C cannot come between the first
/// write and the last; they arrive afterwards.
fn write_all(members: Vec<Candidate>, plan: &[Superblock], beside: &[Beside]) -> Result<(), Failure> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().map_err(Failure::operating)?;
    let written = write_members(members, plan, beside);
    signals.thread_unblock().map_err(Failure::operating)?;
    written
}

/// Makes the missing files, removes old signatures, and writes the superblocks.
fn write_members(members: Vec<Candidate>, plan: &[Superblock], beside: &[Beside]) -> Result<(), Failure> {
    let mut journal = Journal::new();
    match write_into(&mut journal, members, plan, beside) {
        Ok(()) => {
            journal.keep();
            Ok(())
        }
        Err(why) if journal.take_back() => {
            Err(Failure::operating(format!("{why}; all members were put back as they were")))
        }
        Err(why) => Err(Failure::operating(format!(
            "{why}; what was written could not be taken back everywhere: look at the errors above, and at \
             the members with `uraid examine`"
        ))),
    }
}

/// The error names the member.
fn write_into(
    journal: &mut Journal,
    members: Vec<Candidate>,
    plan: &[Superblock],
    beside: &[Beside],
) -> Result<(), String> {
    let failed = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    for member in members {
        match member {
            Candidate::Existing { device, .. } => journal.push(device),
            Candidate::New { path, bytes } => {
                let made = Device::create_sparse(&path, bytes);
                journal.push_created(made.map_err(|error| failed(&path, &error))?);
            }
        }
    }
    for (index, (superblock, beside)) in plan.iter().zip(beside).enumerate() {
        let path = journal.devices().get(index).map(|device| device.path().to_owned()).unwrap_or_default();
        journal.wipe(index).map_err(|error| failed(&path, &error))?;
        write_superblock(journal, index, superblock, beside).map_err(|error| failed(&path, &error))?;
    }
    journal.sync().map_err(|error| format!("cannot sync: {error}"))?;
    for (device, superblock) in journal.devices().iter().zip(plan) {
        if scan::superblock(device).ok().as_ref() != Some(superblock) {
            return Err(failed(device.path(), &"what was written does not read back"));
        }
    }
    Ok(())
}

/// What lies beside the superblock comes first: what a superblock announces has to be there.
fn write_superblock(
    journal: &mut Journal,
    index: usize,
    superblock: &Superblock,
    beside: &Beside,
) -> io::Result<()> {
    for (sector, bytes) in beside {
        journal.write(index, sector * SECTOR, bytes)?;
    }
    journal.write(index, superblock.super_offset() * SECTOR, &superblock.encode())
}

fn summary(args: &CreateArgs, plan: &[Superblock], made: &[bool], zero: bool) -> Result<(), Failure> {
    let Some(first) = plan.first() else { return Ok(()) };
    let mut lines = vec![format!(
        "created {} {:?}: {} members, {} chunk, {}, {} usable, uuid {}",
        first.level(),
        first.name(),
        first.raid_disks(),
        Size::from_bytes(u64::from(first.chunk_sectors()) * SECTOR).to_string().trim_end_matches("iB"),
        first.layout().name(),
        human::bytes(first.array_sectors().saturating_mul(SECTOR)),
        first.set_uuid(),
    )];
    for ((role, path), made) in args.members.iter().enumerate().zip(made) {
        lines.push(format!("  role {role}: {}{}", path.display(), if *made { " (new file)" } else { "" }));
    }
    if args.size.is_some() && !made.contains(&true) {
        lines.push("note: all members existed already, so --size was not used".to_owned());
    }
    let parity = match (zero, args.assume_clean) {
        (true, _) => "matches already, all members are zero; no resync is needed",
        (_, true) => {
            "assumed to match, as told by --assume-clean; if it does not, losing a member will lose data"
        }
        _ => "not known to match; a resync runs when the array is served",
    };
    lines.push(format!("parity: {parity}"));
    let name = first.short_name();
    lines.push(format!(
        "next: list the members in /etc/uraid/{name}.toml, then `systemctl enable --now uraid@{name}`; or \
         `uraid serve --listen unix:/PATH MEMBER...` exports it over NBD without a service"
    ));
    out::print(&(lines.join("\n") + "\n"))
}
