//! What a device claims to be and to be able to.

use engine_dsa::wire::gen_cap;

/// Bits of operations 0-9, 16-21 and 32: what a device of version 1.0 shows.
pub const OPERATIONS_1_0: u64 = 0x1_003f_03ff;
/// Those of a device of version 2.0, without the inter-domain ones that the model does not execute.
pub const OPERATIONS_2_0: u64 = 0x1_00bf_07ff;

/// The claims of a device and its queue, as the driver reads them from sysfs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Personality {
    /// `0x100` for 1.0, `0x200` for 2.0.
    pub version: u32,
    /// The general capability register.
    pub gen_cap: u64,
    /// Bit n of word n / 64: operation n, before [`unsafe_submission`](Self::unsafe_submission) hides one.
    pub op_cap: [u64; 4],
    /// Bytes of a transfer, at most, in this queue.
    pub max_transfer: u32,
    /// Descriptors of a batch, at most, in this queue.
    pub max_batch: u32,
    /// Whether the queue allows block on fault.
    pub block_on_fault: bool,
    /// Whether the kernel holds user submission to be unsafe: it hides and refuses BATCH.
    pub unsafe_submission: bool,
}

impl Personality {
    /// A device of version 1.0 as first shipped, in a queue with the kernel's default limits: 2 MiB and 32
    /// descriptors; no restriction of user submission.
    pub fn v1() -> Self {
        Self {
            version: 0x100,
            gen_cap: 0x40_915f_0107,
            op_cap: [OPERATIONS_1_0, 0, 0, 0],
            max_transfer: 2 << 20,
            max_batch: 32,
            block_on_fault: false,
            unsafe_submission: false,
        }
    }

    /// The same behind a kernel that does not trust it with user submission.
    pub fn v1_restricted() -> Self {
        Self { unsafe_submission: true, ..Self::v1() }
    }

    /// A device of version 2.0.
    pub fn v2() -> Self {
        Self { version: 0x200, op_cap: [OPERATIONS_2_0, 0, 0, 0], ..Self::v1() }
    }

    /// Whether the device executes operation `number`.
    pub fn supports(&self, number: u8) -> bool {
        let shown = self.visible_op_cap();
        shown.get(usize::from(number / 64)).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// `op_cap` as sysfs shows it.
    pub fn visible_op_cap(&self) -> [u64; 4] {
        let mut shown = self.op_cap;
        if let (true, [low, ..]) = (self.unsafe_submission, &mut shown) {
            *low &= !(1 << 1);
        }
        shown
    }

    /// Whether moves may overlap.
    pub fn overlap(&self) -> bool {
        self.gen_cap & gen_cap::OVERLAP != 0
    }

    /// Whether this is version 2.0 or later.
    pub fn is_v2(&self) -> bool {
        self.version >= 0x200
    }
}
