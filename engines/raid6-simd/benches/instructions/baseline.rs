//! The counts that new ones are compared with, in a file of JSON.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::{Value, json};

use crate::Result;
use crate::report::Counts;

/// Counts, and the compiler that they hold for.
#[derive(Default)]
pub(crate) struct Baseline {
    compiler: Option<String>,
    counts: BTreeMap<String, u64>,
}

impl Baseline {
    /// A file that does not exist is a baseline without counts.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| format!("the baseline {}: {why}", path.display());
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Baseline::default()),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let compiler = value.get("compiler").and_then(Value::as_str).map(str::to_owned);
        let cases = value.get("instructions").and_then(Value::as_object);
        let cases = cases.ok_or_else(|| wrong("has no object `instructions`".to_owned()))?;
        let number = |(id, count): (&String, &Value)| {
            let count = count.as_u64().ok_or_else(|| wrong(format!("{id} is not a count")))?;
            Ok((id.clone(), count))
        };
        Ok(Baseline { compiler, counts: cases.iter().map(number).collect::<Result<_>>()? })
    }

    pub(crate) fn of(&self, id: &str) -> Option<u64> {
        self.counts.get(id).copied()
    }

    /// A remark if the compiler is another one than that of the baseline.
    pub(crate) fn compare_compiler(&self) {
        let (Some(then), Some(now)) = (&self.compiler, compiler()) else { return };
        if *then != now {
            println!("the baseline is of {then} and this is {now}, so differences need not be of the source");
        }
    }

    /// Takes over what was counted.
    pub(crate) fn update(&mut self, counts: &Counts) {
        self.compiler = compiler();
        self.counts.extend(counts.all().map(|(id, count)| (id.clone(), count)));
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let value = json!({ "compiler": self.compiler, "instructions": self.counts });
        let text = format!("{value:#}\n");
        fs::write(path, text).map_err(|error| format!("the baseline {}: {error}", path.display()))
    }
}

/// The compiler that cargo uses, in its own words; `None` if it does not answer.
fn compiler() -> Option<String> {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let done = Command::new(program).arg("--version").output().ok()?;
    let line = String::from_utf8(done.stdout).ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}
