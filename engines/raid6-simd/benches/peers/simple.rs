//! Peers with the interface that the bench describes at its top.

use std::ffi::{c_int, c_void};

use crate::Result;
use crate::cell::{Cell, LOST, Op};
use crate::contenders::{Contender, Role, Run, cycle};
use crate::memory::{Library, part, part_mut};
use crate::options::PeerOption;

type GenFn = unsafe extern "C" fn(c_int, usize, *mut *mut c_void);
type Rec2Fn = unsafe extern "C" fn(c_int, usize, c_int, c_int, *mut *mut c_void);
type UpdateFn = unsafe extern "C" fn(c_int, c_int, usize, *mut c_void, *mut c_void, *mut c_void, *mut c_void);

/// A library of which some functions may be missing.
pub(crate) struct Simple {
    name: String,
    path: String,
    pq: Option<GenFn>,
    xor: Option<GenFn>,
    rec2: Option<Rec2Fn>,
    update: Option<UpdateFn>,
}

impl Simple {
    pub(crate) fn open(option: &PeerOption) -> Result<Self> {
        let PeerOption { name, path, prefix } = option;
        let library = Library::open(path)?;
        let full = |function: &str| format!("{prefix}_{function}");
        // SAFETY: whoever names a library as a peer says that its functions have these types.
        let (pq, xor, rec2, update) = unsafe {
            (
                library.function(&full("gen")),
                library.function(&full("xor")),
                library.function(&full("rec2")),
                library.function(&full("update")),
            )
        };
        let peer = Simple { name: name.clone(), path: path.clone(), pq, xor, rec2, update };
        if peer.functions().is_empty() {
            return Err(format!("{path} has none of {prefix}_gen, _xor, _rec2 and _update"));
        }
        Ok(peer)
    }

    fn functions(&self) -> Vec<&'static str> {
        let present = [
            (self.pq.is_some(), "gen"),
            (self.xor.is_some(), "xor"),
            (self.rec2.is_some(), "rec2"),
            (self.update.is_some(), "update"),
        ];
        present.into_iter().filter_map(|(there, name)| there.then_some(name)).collect()
    }

    pub(crate) fn description(&self) -> String {
        format!("{}: {} of {}", self.name, self.functions().join(", "), self.path)
    }

    pub(crate) fn bind<'a>(&self, cell: &Cell<'a>) -> Option<Contender<'a>> {
        let run = match cell.op {
            Op::Pq => generate(self.pq?, cell, cell.blocks() as c_int),
            Op::Xor => generate(self.xor?, cell, cell.n as c_int),
            Op::Rec2 => rec2(self.rec2?, cell),
            Op::Update => update(self.update?, cell),
            Op::Check | Op::XorCheck => return None,
        };
        Some(Contender { name: self.name.clone(), role: Role::Peer, bytes: cell.counted(), run })
    }
}

/// The blocks of all stripes in their order.
fn arrays(cell: &Cell<'_>) -> Vec<*mut c_void> {
    cell.all_pointers().into_iter().map(|block| block.cast()).collect()
}

fn generate<'a>(function: GenFn, cell: &Cell<'a>, count: c_int) -> Run<'a> {
    let (mut arrays, blocks, len) = (arrays(cell), cell.blocks(), cell.len);
    cycle(cell, move |stripe| {
        let array = part_mut(&mut arrays, stripe, blocks);
        // SAFETY: sources and then destinations, all inside the pool; no reference to what is written is
        // kept.
        unsafe { function(count, len, array.as_mut_ptr()) };
        true
    })
}

fn rec2<'a>(function: Rec2Fn, cell: &Cell<'a>) -> Run<'a> {
    let (mut arrays, blocks, len) = (arrays(cell), cell.blocks(), cell.len);
    let [a, b] = LOST.map(|block| block as c_int);
    cycle(cell, move |stripe| {
        let array = part_mut(&mut arrays, stripe, blocks);
        // SAFETY: data, P and Q inside the pool, of which two data blocks are written; no reference to
        // those is kept.
        unsafe { function(blocks as c_int, len, a, b, array.as_mut_ptr()) };
        true
    })
}

fn update<'a>(function: UpdateFn, cell: &Cell<'a>) -> Run<'a> {
    let (arrays, len) = (arrays(cell), cell.len);
    let (disks, index) = (cell.n as c_int + 2, cell.changed() as c_int);
    cycle(cell, move |stripe| {
        let blocks = part(&arrays, stripe, 4);
        let [old, new, p, q] = [0, 1, 2, 3].map(|block| blocks[block]);
        // SAFETY: four blocks inside the pool, of which P and Q are written; no reference to those is kept.
        unsafe { function(disks, index, len, old, new, p, q) };
        true
    })
}
