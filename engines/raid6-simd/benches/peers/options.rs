//! The command line.

use std::str::FromStr;

use raid6_simd::{Kernel, Selection};

use crate::Result;
use crate::cell::{Op, Set};
use crate::memory::PAGE;

pub(crate) const HELP: &str = "\
Times raid6-simd beside other libraries, memcpy and loops that only move the bytes.
usage: cargo bench -p raid6-simd --bench peers -- [options]

  --ops LIST            of pq,xor,check,xor-check,rec2,update (default: all)
  --sets LIST           of hot,l3,dram (default: hot,l3)
  --ns LIST             data blocks, 3 to 253 (default: 4,8,16)
  --lens LIST           bytes of a block: multiples of 4K, K and M understood (default: 4K,16K,64K)
  --rounds N            rounds of a cell (default: 15)
  --micros N            microseconds of a contender in a round (default: 300)
  --quick               hot only, 7 rounds of 100 microseconds, unless said otherwise
  --kernel NAME         also time this implementation; repeatable
  --isal NAME=PATH      another library with ISA-L's functions; repeatable
  --peer NAME=PATH:PREFIX   a library with the functions described in benches/peers.rs; repeatable
  --json FILE           also write all figures there (cargo starts benches in the crate's directory)
  --test                check every contender and time nothing
  --help                this text";

/// What the run is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Help,
    Check,
    Time,
}

/// A library with the functions of [`crate::simple`].
pub(crate) struct PeerOption {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) prefix: String,
}

pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) ops: Vec<Op>,
    pub(crate) sets: Vec<Set>,
    ns: Vec<usize>,
    lens: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) micros: u64,
    pub(crate) kernels: Vec<Kernel>,
    /// Name and path.
    pub(crate) isal: Vec<(String, String)>,
    pub(crate) peers: Vec<PeerOption>,
    pub(crate) json: Option<String>,
}

impl Options {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Options {
            mode: Mode::Check,
            ops: Op::ALL.to_vec(),
            sets: Vec::new(),
            ns: vec![4, 8, 16],
            lens: vec![4 << 10, 16 << 10, 64 << 10],
            rounds: 0,
            micros: 0,
            kernels: Vec::new(),
            isal: Vec::new(),
            peers: Vec::new(),
            json: None,
        };
        let (mut bench, mut test, mut quick, mut help) = (false, false, false, false);
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value; see --help"));
            match arg.as_str() {
                "--bench" => bench = true,
                "--test" => test = true,
                "--quick" => quick = true,
                "--help" | "-h" => help = true,
                "--ops" => options.ops = list(&value()?, |s| named(s, Op::ALL, Op::name))?,
                "--sets" => options.sets = list(&value()?, |s| named(s, Set::ALL, Set::name))?,
                "--ns" => options.ns = list(&value()?, data_blocks)?,
                "--lens" => options.lens = list(&value()?, block_len)?,
                "--rounds" => options.rounds = positive(&value()?)?,
                "--micros" => options.micros = positive(&value()?)? as u64,
                "--kernel" => options.kernels.push(kernel(&value()?)?),
                "--isal" => options.isal.push(pair(&value()?, '=')?),
                "--peer" => options.peers.push(peer(&value()?)?),
                "--json" => options.json = Some(value()?),
                _ => return Err(format!("{arg} is not an option; see --help")),
            }
        }
        if options.sets.is_empty() {
            options.sets = if quick { vec![Set::Hot] } else { vec![Set::Hot, Set::L3] };
        }
        let (rounds, micros) = if quick { (7, 100) } else { (15, 300) };
        options.rounds = if options.rounds == 0 { rounds } else { options.rounds };
        options.micros = if options.micros == 0 { micros } else { options.micros };
        if help {
            options.mode = Mode::Help;
        } else if bench && !test {
            options.mode = Mode::Time;
        }
        Ok(options)
    }

    /// Numbers of data blocks.
    pub(crate) fn ns(&self) -> &[usize] {
        &self.ns
    }

    /// Every number of data blocks with every length.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.ns.iter().flat_map(|&n| self.lens.iter().map(move |&len| (n, len)))
    }
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    text.split(',').map(item).collect()
}

fn named<T: Copy, const N: usize>(text: &str, all: [T; N], name: fn(T) -> &'static str) -> Result<T> {
    let names = all.map(name).join(", ");
    all.into_iter().find(|&one| name(one) == text).ok_or_else(|| format!("{text:?} is none of {names}"))
}

fn positive(text: &str) -> Result<usize> {
    let number = usize::from_str(text).ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is not a number above zero"))
}

fn data_blocks(text: &str) -> Result<usize> {
    let n = positive(text)?;
    if (3..=253).contains(&n) { Ok(n) } else { Err(format!("{n} data blocks are not 3 to 253")) }
}

fn block_len(text: &str) -> Result<usize> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let len = positive(digits)?.saturating_mul(unit);
    let fits = len.is_multiple_of(PAGE) && len <= 4 << 20;
    if fits { Ok(len) } else { Err(format!("a block of {text} is not a multiple of 4K up to 4M")) }
}

fn kernel(text: &str) -> Result<Kernel> {
    match Selection::from_str(text) {
        Ok(Selection::Only(kernel)) => Ok(kernel),
        Ok(_) => Err(format!("{text} names no single kernel")),
        Err(error) => Err(error.to_string()),
    }
}

fn pair(text: &str, separator: char) -> Result<(String, String)> {
    let both = text.rsplit_once(separator).filter(|(left, right)| !left.is_empty() && !right.is_empty());
    let (left, right) = both.ok_or_else(|| format!("{text:?} is not two words joined by {separator:?}"))?;
    Ok((left.to_owned(), right.to_owned()))
}

fn peer(text: &str) -> Result<PeerOption> {
    let (named, prefix) = pair(text, ':')?;
    let (name, path) = pair(&named, '=')?;
    Ok(PeerOption { name, path, prefix })
}
