//! Finds out whether a device holds something that its owner may want to keep.
//!
//! Signatures of file systems, partition tables, arrays, volume managers and encryption are found by
//! `wipefs --no-act` of util-linux, which every Linux with block devices has and which knows some
//! hundred of them; linking its library would buy nothing but a build dependency. On top of that come md
//! superblocks that are too damaged for it to recognise, and, in regular files, any byte that is not
//! zero: a file is more often a document than a disk.
//!
//! Nothing here writes.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use md_format::{READ_BYTES, RawSuperblock, SECTOR, SuperblockError, candidates};
use nix::unistd::{Whence, lseek};
use serde::Deserialize;

use crate::device::{Device, DeviceKind};

/// Bytes on a device by which something can be recognised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// What it is called: `ext4`, `gpt`, `linux_raid_member`.
    pub name: String,
    /// What it is for: `filesystem`, `partition-table`, `raid`, `crypto`; empty if unknown.
    pub usage: String,
    /// The label or else the UUID in it, if it has one.
    pub identity: Option<String>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes; without them it is not recognised any more.
    pub bytes: u64,
}

/// Something on a device that speaks against overwriting it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A known signature.
    Signature(Signature),
    /// A regular file with content that is not known.
    Content {
        /// The first byte that is not zero.
        offset: u64,
    },
}

/// Why a device could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// wipefs is not installed.
    #[error("the tool `wipefs` is missing, without which nothing is overwritten; install util-linux")]
    ToolMissing,
    /// wipefs failed.
    #[error("`wipefs --no-act` failed: {0}")]
    Tool(String),
    /// The device could not be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// All that was found on a device; empty if it may be overwritten.
///
/// # Errors
/// It could not be looked at; then nothing is known about it.
pub fn findings(device: &Device) -> Result<Vec<Finding>, ProbeError> {
    let mut findings: Vec<Finding> = signatures(device)?.into_iter().map(Finding::Signature).collect();
    if findings.is_empty()
        && device.kind() == DeviceKind::File
        && let Some(offset) = first_nonzero(device)?
    {
        findings.push(Finding::Content { offset });
    }
    Ok(findings)
}

/// The signatures on a device.
///
/// # Errors
/// It could not be looked at; then nothing is known about it.
pub fn signatures(device: &Device) -> Result<Vec<Signature>, ProbeError> {
    let mut signatures = known_signatures(device.path())?;
    for damaged in md_superblocks(device)? {
        if !signatures.iter().any(|known| overlap(known, &damaged)) {
            signatures.push(damaged);
        }
    }
    Ok(signatures)
}

fn overlap(a: &Signature, b: &Signature) -> bool {
    a.offset < b.offset.saturating_add(b.bytes) && b.offset < a.offset.saturating_add(a.bytes)
}

/// Everything that starts like an md superblock 1.x, sound or not.
fn md_superblocks(device: &Device) -> Result<Vec<Signature>, ProbeError> {
    let mut found = Vec::new();
    for place in candidates(device.sectors()) {
        let offset = place.sector * SECTOR;
        let bytes = device.read_at(offset, READ_BYTES)?;
        if !matches!(RawSuperblock::read(&bytes), Err(SuperblockError::NoMagic)) {
            found.push(Signature {
                name: format!("md superblock {}", place.minor),
                usage: "raid".to_owned(),
                identity: None,
                offset,
                bytes: 4,
            });
        }
    }
    Ok(found)
}

/// The offset of the first byte that is not zero. Holes, also those that were allocated and never
/// written, are skipped without reading them.
///
/// # Errors
/// The device could not be read.
pub fn first_nonzero(device: &Device) -> io::Result<Option<u64>> {
    const STEP: usize = 1 << 20;
    let mut buffer = vec![0; STEP];
    let mut offset = 0;
    while offset < device.bytes() {
        let Some(data) = next_data(device, offset)? else { return Ok(None) };
        offset = data;
        let read = device.file().read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(None);
        }
        let bytes = buffer.get(..read).unwrap_or_default();
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            return Ok(Some(offset + at as u64));
        }
        offset += read as u64;
    }
    Ok(None)
}

/// The next offset at or after `offset` that is not in a hole. Where holes cannot be asked for,
/// everything is data.
fn next_data(device: &Device, offset: u64) -> io::Result<Option<u64>> {
    let Ok(from) = i64::try_from(offset) else { return Ok(None) };
    match lseek(device.file().as_fd(), from, Whence::SeekData) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(nix::errno::Errno::EINVAL) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

#[derive(Deserialize)]
struct WipefsReport {
    signatures: Vec<WipefsSignature>,
}

#[derive(Deserialize)]
struct WipefsSignature {
    offset: String,
    #[serde(rename = "type")]
    name: String,
    uuid: Option<String>,
    label: Option<String>,
    usage: Option<String>,
    /// A number, or the same as text in older versions.
    length: serde_json::Value,
}

fn known_signatures(path: &Path) -> Result<Vec<Signature>, ProbeError> {
    let output = run_wipefs(path)?;
    let failed = |why: &dyn fmt::Display| ProbeError::Tool(format!("{}: {why}", path.display()));
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let report: WipefsReport = serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))?;
    let parsed = report.signatures.into_iter().map(Signature::try_from);
    parsed.collect::<Result<_, _>>().map_err(|error| failed(&error))
}

fn run_wipefs(path: &Path) -> Result<Output, ProbeError> {
    // A shell of an ordinary user often has no sbin in its PATH.
    for program in ["wipefs", "/usr/sbin/wipefs", "/sbin/wipefs"] {
        let mut command = Command::new(program);
        command.args(["--no-act", "--json", "--output", "OFFSET,TYPE,UUID,LABEL,USAGE,LENGTH", "--"]);
        command.arg(path).env("LC_ALL", "C").stdin(Stdio::null());
        match command.output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ProbeError::Tool(error.to_string())),
            Ok(output) => return Ok(output),
        }
    }
    Err(ProbeError::ToolMissing)
}

impl TryFrom<WipefsSignature> for Signature {
    type Error = String;

    fn try_from(found: WipefsSignature) -> Result<Self, String> {
        let digits = found.offset.strip_prefix("0x").ok_or("an offset is not hexadecimal")?;
        let offset = u64::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
        let length = match &found.length {
            serde_json::Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        Ok(Signature {
            name: found.name,
            usage: found.usage.unwrap_or_default(),
            identity: found.label.or(found.uuid).filter(|text| !text.is_empty()),
            offset,
            bytes: length.ok_or("a length is not a number")?,
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.usage.as_str() {
            "filesystem" => write!(f, "a file system ({})", self.name)?,
            "partition-table" => write!(f, "a partition table ({})", self.name)?,
            "raid" => write!(f, "a member of an array or volume group ({})", self.name)?,
            "crypto" => write!(f, "an encrypted volume ({})", self.name)?,
            _ => write!(f, "a signature ({})", self.name)?,
        }
        match &self.identity {
            Some(identity) => write!(f, " {identity:?} at byte {}", self.offset),
            None => write!(f, " at byte {}", self.offset),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Signature(signature) => signature.fmt(f),
            Finding::Content { offset } => {
                write!(f, "data of unknown kind (the first byte that is not zero is at {offset})")
            }
        }
    }
}

/// The text of a refusal: what each member holds, and what can be done.
pub fn refusal(held: &[(PathBuf, Vec<Finding>)]) -> String {
    let mut text = "nothing was changed, because overwriting would destroy:".to_owned();
    for (path, findings) in held {
        for finding in findings {
            text.push_str(&format!("\n  {}: {finding}", path.display()));
        }
    }
    text.push_str("\nname other members, or add --force if all of this may be lost");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(bytes: &[u8], len: u64) -> (tempfile::TempDir, Device) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        std::fs::write(&path, bytes).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        let device = Device::open_to_read(&path).unwrap();
        (directory, device)
    }

    #[test]
    fn the_first_byte_is_found_wherever_it_is() {
        for at in [0_usize, 1, 4095, 4096, (1 << 20) - 1, 1 << 20, (2 << 20) + 77] {
            let mut bytes = vec![0; at];
            bytes.push(1);
            let (_directory, device) = device(&bytes, 8 << 20);
            assert_eq!(first_nonzero(&device).unwrap(), Some(at as u64));
        }
        let (_directory, device) = device(&[0; 5000], 1 << 30);
        assert_eq!(first_nonzero(&device).unwrap(), None);
        assert_eq!(findings(&device).unwrap(), []);
    }

    #[test]
    fn an_empty_file_holds_nothing() {
        let (_directory, device) = device(&[], 0);
        assert_eq!(findings(&device).unwrap(), []);
    }

    #[test]
    fn a_damaged_md_superblock_is_still_something() {
        let mut bytes = vec![0; 8192];
        bytes[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
        bytes[4100] = 1;
        let (_directory, device) = device(&bytes, 1 << 20);
        let found = findings(&device).unwrap();
        assert!(
            matches!(&found[..], [Finding::Signature(s)] if s.usage == "raid" && s.offset == 4096),
            "{found:?}"
        );
    }

    #[test]
    fn reports_of_older_tools_are_read_too() {
        let text = r#"{"signatures": [{"offset":"0x438","type":"ext4","uuid":null,"label":"home","usage":"filesystem","length":"2"}]}"#;
        let report: WipefsReport = serde_json::from_str(text).unwrap();
        let signature = Signature::try_from(report.signatures.into_iter().next().unwrap()).unwrap();
        assert_eq!(signature.to_string(), "a file system (ext4) \"home\" at byte 1080");
        assert_eq!(signature.bytes, 2);
    }
}
