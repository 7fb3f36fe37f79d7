//! Libraries with ISA-L's interface: its RAID functions, and its erasure code with the coefficients of P
//! and Q, which is its way to recover two blocks and to update.

use std::ffi::{c_int, c_uchar, c_void};

use crate::Result;
use crate::cell::{Cell, LOST, Op};
use crate::contenders::{Contender, Role, Run, cycle};
use crate::memory::{Library, PAGE, part_mut};

/// `int f(int vects, int len, void **array)`: sources, then what is generated or checked. Blocks aligned to
/// 32 bytes; 0 is success.
type RaidFn = unsafe extern "C" fn(c_int, c_int, *mut *mut c_void) -> c_int;
/// `void f(int len, int k, int rows, uchar *tables, uchar **data, uchar **coding)`.
type EncodeFn = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uchar, *mut *mut c_uchar, *mut *mut c_uchar);
/// `void f(int len, int k, int rows, int index, uchar *tables, uchar *data, uchar **coding)`.
type UpdateFn =
    unsafe extern "C" fn(c_int, c_int, c_int, c_int, *mut c_uchar, *mut c_uchar, *mut *mut c_uchar);
/// `void f(int k, int rows, uchar *coefficients, uchar *tables)`, 32 bytes of table a coefficient.
type TablesFn = unsafe extern "C" fn(c_int, c_int, *mut c_uchar, *mut c_uchar);
/// `void f(uchar *matrix, int m, int k)`: `m` rows of `k`, the identity and then powers of 1, 2, 4...
type MatrixFn = unsafe extern "C" fn(*mut c_uchar, c_int, c_int);
/// `int f(uchar *in, uchar *out, int n)`; 0 is success, and `in` is destroyed.
type InvertFn = unsafe extern "C" fn(*mut c_uchar, *mut c_uchar, c_int) -> c_int;

pub(crate) struct Isal {
    name: String,
    library: Library,
    pq_gen: RaidFn,
    xor_gen: RaidFn,
    pq_check: RaidFn,
    xor_check: RaidFn,
    encode: EncodeFn,
    encode_update: UpdateFn,
    init_tables: TablesFn,
    rs_matrix: MatrixFn,
    invert: InvertFn,
}

impl Isal {
    pub(crate) fn open(name: &str, path: &str) -> Result<Self> {
        let library = Library::open(path)?;
        let missing = |function: &str| format!("{path} has no function {function}");
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: ISA-L's headers declare the function as the field's type says.
                unsafe { library.function($name) }.ok_or_else(|| missing($name))?
            };
        }
        Ok(Isal {
            name: name.to_owned(),
            library,
            pq_gen: function!("pq_gen"),
            xor_gen: function!("xor_gen"),
            pq_check: function!("pq_check"),
            xor_check: function!("xor_check"),
            encode: function!("ec_encode_data"),
            encode_update: function!("ec_encode_data_update"),
            init_tables: function!("ec_init_tables"),
            rs_matrix: function!("gf_gen_rs_matrix"),
            invert: function!("gf_invert_matrix"),
        })
    }

    pub(crate) fn description(&self) -> String {
        format!("{}: {}", self.name, self.library.file_of("pq_gen").unwrap_or_default())
    }

    pub(crate) fn bind<'a>(&'a self, cell: &Cell<'a>) -> Vec<Contender<'a>> {
        let contender = |function: &str, run| {
            let name = format!("{}/{function}", self.name);
            Contender { name, role: Role::Peer, bytes: cell.counted(), run }
        };
        match cell.op {
            Op::Pq => vec![
                contender("pq_gen", raid(self.pq_gen, cell)),
                contender("ec", self.encode(cell, self.parity_rows(cell.n))),
            ],
            Op::Xor => vec![contender("xor_gen", raid(self.xor_gen, cell))],
            Op::Check => vec![contender("pq_check", raid(self.pq_check, cell))],
            Op::XorCheck => vec![contender("xor_check", raid(self.xor_check, cell))],
            Op::Rec2 => {
                let rows = self.decode_rows(cell.n);
                rows.map(|rows| contender("ec", self.encode(cell, rows))).into_iter().collect()
            }
            Op::Update => vec![contender("xor+ec_update", self.update(cell))],
        }
    }

    /// The coefficients of P and of Q.
    fn parity_rows(&self, n: usize) -> Vec<u8> {
        self.matrix(n).split_off(n * n)
    }

    /// The identity of order `n`, and then the rows of P and Q.
    fn matrix(&self, n: usize) -> Vec<u8> {
        let mut matrix = vec![0; (n + 2) * n];
        // SAFETY: room for n + 2 rows of n.
        unsafe { (self.rs_matrix)(matrix.as_mut_ptr(), n as c_int + 2, n as c_int) };
        matrix
    }

    /// The lost data's rows of the inverse of what maps data to the blocks that are left.
    fn decode_rows(&self, n: usize) -> Option<Vec<u8>> {
        let rows = self.matrix(n);
        let left = rows.chunks_exact(n).enumerate().filter(|(row, _)| !LOST.contains(row));
        let mut left: Vec<u8> = left.flat_map(|(_, row)| row.iter().copied()).collect();
        let mut inverse = vec![0; n * n];
        // SAFETY: two square matrices of order n.
        let result = unsafe { (self.invert)(left.as_mut_ptr(), inverse.as_mut_ptr(), n as c_int) };
        (result == 0).then(|| LOST.iter().flat_map(|&row| inverse[row * n..][..n].to_vec()).collect())
    }

    /// The tables that the erasure code makes of two rows of `n` coefficients.
    fn tables(&self, mut rows: Vec<u8>, n: usize) -> Vec<u8> {
        let mut tables = vec![0; 32 * 2 * n];
        // SAFETY: 2n coefficients, and 32 bytes for each.
        unsafe { (self.init_tables)(n as c_int, 2, rows.as_mut_ptr(), tables.as_mut_ptr()) };
        tables
    }

    /// The cell's outputs as two sums of its inputs.
    fn encode<'a>(&self, cell: &Cell<'a>, rows: Vec<u8>) -> Run<'a> {
        let (n, len, encode) = (cell.n as c_int, cell.len as c_int, self.encode);
        let mut tables = self.tables(rows, cell.n);
        let (inputs, outputs) = (cell.inputs(), cell.outputs());
        let mut data: Vec<_> = cell.stripes().flat_map(|s| cell.pointers(s, &inputs)).collect();
        let mut coding: Vec<_> = cell.stripes().flat_map(|s| cell.pointers(s, &outputs)).collect();
        cycle(cell, move |stripe| {
            let data = part_mut(&mut data, stripe, n as usize);
            let coding = part_mut(&mut coding, stripe, 2);
            // SAFETY: n sources and two destinations inside the pool, none of them twice; no reference to
            // the destinations is kept.
            unsafe { encode(len, n, 2, tables.as_mut_ptr(), data.as_mut_ptr(), coding.as_mut_ptr()) };
            true
        })
    }

    /// Old plus new data into a block of its own, which is then multiplied into P and Q.
    fn update<'a>(&self, cell: &Cell<'a>) -> Run<'a> {
        let (n, len, index) = (cell.n as c_int, cell.len as c_int, cell.changed() as c_int);
        let (xor_gen, update) = (self.xor_gen, self.encode_update);
        let mut tables = self.tables(self.parity_rows(cell.n), cell.n);
        let mut room = vec![0u8; cell.len + PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        let difference = room[start..].as_mut_ptr();
        let mut xor: Vec<_> = cell
            .stripes()
            .flat_map(|stripe| [cell.block(stripe, 0), cell.block(stripe, 1), difference])
            .map(|block| block.cast::<c_void>())
            .collect();
        let mut coding: Vec<_> = cell.stripes().flat_map(|s| cell.pointers(s, &[2, 3])).collect();
        cycle(cell, move |stripe| {
            let (xor, coding) = (part_mut(&mut xor, stripe, 3), part_mut(&mut coding, stripe, 2));
            let _owned = &room;
            // SAFETY: blocks of the pool, and one in `room`, which the closure owns and nothing else uses.
            unsafe {
                let result = xor_gen(3, len, xor.as_mut_ptr());
                update(len, n, 2, index, tables.as_mut_ptr(), difference, coding.as_mut_ptr());
                result == 0
            }
        })
    }
}

/// A RAID function over all blocks of a stripe.
fn raid<'a>(function: RaidFn, cell: &Cell<'a>) -> Run<'a> {
    let (blocks, len) = (cell.blocks(), cell.len as c_int);
    let mut arrays: Vec<*mut c_void> = cell.all_pointers().into_iter().map(|block| block.cast()).collect();
    cycle(cell, move |stripe| {
        let array = part_mut(&mut arrays, stripe, blocks);
        // SAFETY: the blocks of a stripe, in the order that the function wants: the sources, and then what
        // it writes or checks. No reference to what it writes is kept.
        unsafe { function(blocks as c_int, len, array.as_mut_ptr()) == 0 }
    })
}
