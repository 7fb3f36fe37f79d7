//! `tests/golden/manifest.json`: what must hold of each array that Linux md made.

use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;

/// Where the arrays are.
pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// One array.
#[derive(Clone, Deserialize, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) level: i32,
    pub(crate) layout: u32,
    pub(crate) raid_disks: u16,
    pub(crate) chunk_bytes: u64,
    /// Used sectors of each member.
    pub(crate) dev_sectors: u64,
    pub(crate) array_bytes: u64,
    pub(crate) content_sha256: String,
    pub(crate) events: u64,
    pub(crate) dirty: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) checks: Vec<Check>,
}

/// One member's image.
#[derive(Clone, Deserialize, Debug)]
pub(crate) struct Member {
    pub(crate) file: String,
    pub(crate) bytes: usize,
    pub(crate) sha256: String,
    /// A number, or `spare`, `journal` or `blank`.
    pub(crate) role: Value,
}

impl Member {
    /// The role, of a member that has one.
    pub(crate) fn number(&self) -> Option<u16> {
        self.role.as_u64().and_then(|role| u16::try_from(role).ok())
    }
}

/// One thing that must hold. A kind that is not known here fails the test that reads the file.
#[derive(Clone, Deserialize, Debug)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Check {
    /// The bytes of the array, without the members of some roles.
    Content {
        sha256: String,
        #[serde(default)]
        missing: Vec<u16>,
    },
    /// Sectors (eight for each 4 KiB block) whose parity does not match, and where; as the images are if
    /// `replay` is false, after what a start recovers if it is true.
    Parity { bad_sectors: u64, bad_pages: Option<Vec<(u64, Option<u16>)>>, replay: Option<bool> },
    /// The verdict.
    State { want: State },
    /// The bits that are set on each member.
    Bitmap { set: std::collections::BTreeMap<String, Vec<u64>> },
    /// Every block whose parity does not match lies under a bit that is set.
    BitmapCovers,
}

/// The verdict.
#[derive(Clone, Deserialize, Debug)]
pub(crate) struct State {
    pub(crate) dirty: bool,
    pub(crate) degraded: u16,
    pub(crate) events: u64,
    pub(crate) resync_offset: Option<u64>,
}

#[derive(Deserialize)]
struct Manifest {
    cases: Vec<Case>,
}

/// All arrays.
pub(crate) fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(home().join("manifest.json")).expect("tests/golden/manifest.json");
    serde_json::from_str::<Manifest>(&text).expect("a manifest as this test knows it").cases
}
