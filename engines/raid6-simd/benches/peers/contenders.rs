//! Who takes part: this crate, ISA-L, other peers, memcpy and the limit loops.

use raid6_simd::{Kernels, Selection, Stores};

use crate::Result;
use crate::cell::{Cell, Set};
use crate::isal::Isal;
use crate::options::Options;
use crate::simple::Simple;
use crate::{limits, ours};

/// What a contender's figures are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// The one that all others are compared with.
    Ours,
    /// Printed only.
    Other,
    /// Another library.
    Peer,
    /// Copies.
    Copy,
    /// Reads and writes what the operation reads and writes, and computes something else.
    Limit,
}

impl Role {
    /// Whether it does the operation.
    pub(crate) fn computes(self) -> bool {
        !matches!(self, Role::Copy | Role::Limit)
    }
}

/// Runs the operation on so many stripes from a given one on, and says whether all calls said well.
pub(crate) type Run<'a> = Box<dyn FnMut(usize, usize) -> bool + 'a>;

/// One implementation, ready for the stripes of one cell.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The bytes that a figure counts for a call.
    pub(crate) bytes: usize,
    pub(crate) run: Run<'a>,
}

/// Makes a [`Run`] of a call for one stripe. The hot set stays at the stripe that it begins with.
pub(crate) fn cycle<'a>(cell: &Cell<'_>, mut call: impl FnMut(usize) -> bool + 'a) -> Run<'a> {
    let (count, step) = (cell.count, usize::from(cell.set != Set::Hot));
    Box::new(move |first, calls| {
        let (mut stripe, mut well) = (first, true);
        for _ in 0..calls {
            well &= call(stripe);
            stripe += step;
            if stripe == count {
                stripe = 0;
            }
        }
        well
    })
}

/// Implementations of this crate under one name.
struct Ours {
    name: String,
    cached: Kernels,
    streaming: Kernels,
}

/// All contenders.
pub(crate) struct Field {
    ours: Ours,
    others: Vec<Ours>,
    isal: Vec<Isal>,
    simple: Vec<Simple>,
    missing: Vec<String>,
}

impl Field {
    /// Loads what the options name. An ISA-L that the system does not have is left out with a remark.
    pub(crate) fn open(options: &Options) -> Result<Self> {
        let mut others = Vec::new();
        for &kernel in &options.kernels {
            others.push(Ours::new(format!("raid6-simd:{kernel}"), Selection::Only(kernel))?);
        }
        let (mut isal, mut missing) = (Vec::new(), Vec::new());
        // The system's library comes first: a later one may bear the same name inside, and the loader
        // takes the name for whatever was loaded under it.
        match Isal::open("isal", "libisal.so.2") {
            Ok(library) => isal.push(library),
            Err(error) => missing.push(format!("not compared with the system's ISA-L: {error}")),
        }
        for (name, path) in &options.isal {
            isal.push(Isal::open(name, path)?);
        }
        let mut simple = Vec::new();
        for option in &options.peers {
            simple.push(Simple::open(option)?);
        }
        if !limits::available() {
            missing.push("no limit loops: they need x86-64 with AVX2".to_owned());
        }
        let ours = Ours::new("raid6-simd".to_owned(), Selection::Auto)?;
        Ok(Field { ours, others, isal, simple, missing })
    }

    /// Lines about who is who, and who is missing.
    pub(crate) fn description(&self) -> Vec<String> {
        let chosen = self.ours.cached.kernel().map_or("nothing", |kernel| kernel.name());
        let mut lines = vec![format!("raid6-simd: {chosen}")];
        lines.extend(self.isal.iter().map(Isal::description));
        lines.extend(self.simple.iter().map(Simple::description));
        lines.extend(self.missing.iter().cloned());
        lines
    }

    /// Everyone who can do the cell's operation.
    pub(crate) fn bind<'a>(&'a self, cell: &Cell<'a>) -> Vec<Contender<'a>> {
        let mut all = vec![self.ours.bind(Role::Ours, cell)];
        if cell.set == Set::Dram {
            let name = format!("{}:cached", self.ours.name);
            all.push(ours::bind(name, Role::Other, &self.ours.cached, cell));
        }
        all.extend(self.others.iter().map(|ours| ours.bind(Role::Other, cell)));
        all.extend(self.isal.iter().flat_map(|isal| isal.bind(cell)));
        all.extend(self.simple.iter().filter_map(|peer| peer.bind(cell)));
        all.extend(memcpy(cell));
        all.extend(limits::bind(cell));
        all
    }
}

impl Ours {
    fn new(name: String, selection: Selection) -> Result<Self> {
        let select = || Kernels::select(selection).map_err(|error| error.to_string());
        Ok(Ours { name, cached: select()?, streaming: select()?.with_stores(Stores::Streaming) })
    }

    /// Results go past the caches where no cache holds a set's stripes.
    fn bind<'a>(&'a self, role: Role, cell: &Cell<'a>) -> Contender<'a> {
        let kernels = if cell.set == Set::Dram { &self.streaming } else { &self.cached };
        ours::bind(self.name.clone(), role, kernels, cell)
    }
}

/// Copies a block that the operation reads over each block that it writes.
fn memcpy<'a>(cell: &Cell<'a>) -> Option<Contender<'a>> {
    let (cell, outputs) = (*cell, cell.outputs());
    let written = outputs.len();
    let pairs: Vec<_> = cell
        .stripes()
        .flat_map(|stripe| {
            let from = cell.pointers(stripe, &cell.inputs());
            from.into_iter().zip(cell.pointers(stripe, &outputs)).collect::<Vec<_>>()
        })
        .collect();
    let run = cycle(&cell, move |stripe| {
        for &(from, to) in &pairs[stripe * written..][..written] {
            // SAFETY: both blocks are inside the pool. They differ, for an operation's first inputs are
            // not among its outputs, and no reference to an output is kept.
            unsafe { from.copy_to_nonoverlapping(to, cell.len) };
        }
        true
    });
    let (name, bytes) = ("memcpy".to_owned(), written * cell.len);
    (written > 0).then_some(Contender { name, role: Role::Copy, bytes, run })
}
