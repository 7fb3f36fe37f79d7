//! Counting by callgrind, in one run for all cases.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cases::Case;
use crate::child::{Kind, MEASURED};

/// Instructions by the names of the cases; those are missing that Valgrind's CPU cannot run.
pub(crate) fn count(cases: &[Case]) -> Result<BTreeMap<String, u64>> {
    let directory = Directory::new()?;
    let program = std::env::current_exe().map_err(|error| format!("this program's file: {error}"))?;
    let done = Command::new("valgrind")
        .arg("--tool=callgrind")
        .args(["--collect-atstart=no".to_owned(), format!("--toggle-collect={MEASURED}")])
        .arg(format!("--dump-after={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", directory.file("out").display()))
        .arg(program)
        .arg(Kind::Callgrind.arg())
        .args(cases.iter().map(Case::id))
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                "valgrind is not installed (Debian's package is called valgrind)".to_owned()
            }
            _ => format!("valgrind does not start: {error}"),
        })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last: Vec<_> = said.lines().rev().take(5).collect();
        return Err(format!("valgrind ended with {}: {}", done.status, last.join(" < ")));
    }
    let names = String::from_utf8_lossy(&done.stdout);
    let empty = total(&directory.file("out.1"))?;
    let mut counts = BTreeMap::new();
    // The first file is of the empty call, and there is one for each call after it.
    for (number, id) in (2..).zip(names.lines()) {
        let all = total(&directory.file(&format!("out.{number}")))?;
        counts.insert(id.to_owned(), all.saturating_sub(empty));
    }
    Ok(counts)
}

/// The instructions that a file of callgrind's counts.
fn total(path: &Path) -> Result<u64> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let number = line.and_then(|numbers| numbers.split(' ').next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| wrong("has no totals".to_owned()))
}

/// A directory for callgrind's files, removed in the end.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("raid6-simd-instructions-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Directory { path })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever tidies the system's temporary directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}
