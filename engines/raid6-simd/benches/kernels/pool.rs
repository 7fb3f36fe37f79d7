//! The memory that stripes lie in.

/// Where the memory begins, and the unit in which the system can map it fastest: with huge pages the time
/// that a block takes depends less on where its pages happen to be.
const HUGE_PAGE: usize = 2 << 20;

/// Memory on a huge page's boundary, written once so that no page fault is measured.
pub(crate) struct Pool {
    memory: Vec<u8>,
    start: usize,
}

impl Pool {
    /// So many bytes, which look random.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes + HUGE_PAGE);
        let start = memory.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        ask_for_huge_pages(&mut memory.spare_capacity_mut()[start..]);
        memory.resize(start, 0);
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        while memory.len() < start + bytes {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            memory.extend_from_slice(&word.to_le_bytes());
        }
        Pool { memory, start }
    }

    /// All of it.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

/// A system that has none to give says so, and nothing is lost.
fn ask_for_huge_pages(memory: &mut [std::mem::MaybeUninit<u8>]) {
    let whole = memory.len() - memory.len() % HUGE_PAGE;
    #[cfg(target_os = "linux")]
    // SAFETY: advice about memory of our own, which changes nothing in what it holds.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), whole, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = whole;
}
