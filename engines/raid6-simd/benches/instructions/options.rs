//! The command line.

use std::path::PathBuf;

use crate::Result;

pub(crate) const HELP: &str = "\
Counts the instructions of every operation of every implementation of raid6-simd.
usage: cargo bench -p raid6-simd --bench instructions -- [options] [WORD ...]

  WORD              only cases whose name (like pq/avx2/8x4KiB) has all words
  --check           status 1 if a case grew by more than 3 % over the baseline
  --save            make what is counted the baseline; cases that are not counted keep theirs
  --baseline FILE   another baseline than benches/instructions/baseline.json
  --by WAY          auto (callgrind, and steps for what it cannot run), callgrind, steps or both
  --test            make every call once and count nothing
  --help            this text";

/// What the run is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Help,
    Once,
    Count,
}

/// How to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Auto,
    Callgrind,
    Steps,
    Both,
}

pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) words: Vec<String>,
    pub(crate) check: bool,
    pub(crate) save: bool,
    pub(crate) baseline: PathBuf,
    pub(crate) by: By,
}

impl Options {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let baseline =
            PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/baseline.json"));
        let (mode, words, by) = (Mode::Once, Vec::new(), By::Auto);
        let mut options = Options { mode, words, check: false, save: false, baseline, by };
        let (mut bench, mut test, mut help) = (false, false, false);
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value; see --help"));
            match arg.as_str() {
                "--bench" => bench = true,
                "--test" => test = true,
                "--help" | "-h" => help = true,
                "--check" => options.check = true,
                "--save" => options.save = true,
                "--baseline" => options.baseline = value()?.into(),
                "--by" => options.by = by_name(&value()?)?,
                word if !word.starts_with('-') => options.words.push(word.to_owned()),
                _ => return Err(format!("{arg} is not an option; see --help")),
            }
        }
        if options.check && options.save {
            return Err(
                "--check compares with the baseline and --save replaces it: take one of them".to_owned()
            );
        }
        if help {
            options.mode = Mode::Help;
        } else if bench && !test {
            options.mode = Mode::Count;
        }
        Ok(options)
    }
}

fn by_name(name: &str) -> Result<By> {
    match name {
        "auto" => Ok(By::Auto),
        "callgrind" => Ok(By::Callgrind),
        "steps" => Ok(By::Steps),
        "both" => Ok(By::Both),
        _ => Err(format!("{name:?} is none of auto, callgrind, steps, both")),
    }
}
