//! The in-process portal: threaded and stepped, closing and reopening, with raw memory.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::common::*;
use dsa_model::device::{DeviceConfig, Step};
use dsa_model::faults::{Fault, FaultPlan, UNTIL_RELEASED, When};
use dsa_model::memory::{PageState, Process, Ranges};
use dsa_model::model::Model;
use dsa_model::personality::Personality;
use engine_dsa::portal::{Portal, PortalError};
use engine_dsa::wire::{Opcode, at, status};

/// Page-aligned memory at an address of its own, accessed through its pointer alone.
struct Buffer {
    start: *mut u8,
    layout: std::alloc::Layout,
}

impl Buffer {
    fn new(len: usize) -> Self {
        let layout = std::alloc::Layout::from_size_align(len, 4096).expect("a layout");
        // SAFETY: the layout has a size.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null());
        Self { start, layout }
    }

    fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }

    fn set(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.layout.size());
        // SAFETY: inside the allocation; nobody else accesses it now.
        unsafe { self.start.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.layout.size());
        let mut out = vec![0; len];
        // SAFETY: inside the allocation; the device is done with it.
        unsafe { self.start.add(offset).copy_to_nonoverlapping(out.as_mut_ptr(), len) };
        out
    }

    /// Waits for the status byte at `offset`.
    fn wait(&self, offset: usize) -> u8 {
        assert!(offset < self.layout.size());
        let deadline = Instant::now() + Duration::from_secs(20);
        // SAFETY: inside the allocation, and only accessed atomically while the device may write it.
        let status = unsafe { AtomicU8::from_ptr(self.start.add(offset)) };
        loop {
            match status.load(Ordering::Acquire) {
                0 => assert!(Instant::now() < deadline, "no record at {offset}"),
                status => return status,
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { std::alloc::dealloc(self.start, self.layout) };
    }
}

fn copy(buffer: &Buffer, to: u64, len: u32, slot: u64) -> engine_dsa::wire::Descriptor {
    let base = buffer.address();
    descriptor(Opcode::Memmove as u8, base, base + to, len, base + 0x10_000 + slot * 32)
}

#[test]
fn a_thread_moves_registered_memory() {
    let (buffer, memory) = (Buffer::new(0x20_000), Ranges::new());
    buffer.set(0, &pattern_bytes(0x4000));
    // SAFETY: the buffer outlives the model, and is touched only before a submission and after its record.
    unsafe { memory.register(buffer.start, buffer.layout.size()) };
    let model = Model::new(DeviceConfig::shared(Personality::v1(), 64, 60), memory);
    let thread = model.run(Duration::from_micros(50)).expect("a thread");
    let mut portal = model.portal().expect("shared");
    assert_eq!(portal.method(), "model");
    let both = [copy(&buffer, 0x8000, 0x3001, 0), copy(&buffer, 0xc000, 100, 1)];
    assert_eq!(portal.submit(&both), Ok(2));
    assert_eq!([buffer.wait(0x10_000), buffer.wait(0x10_020)], [status::SUCCESS; 2]);
    assert_eq!(buffer.get(0x8000, 0x3001), pattern_bytes(0x3001));
    assert_eq!(buffer.get(0xc000, 100), pattern_bytes(100));
    drop(thread);
}

#[test]
fn pages_of_registered_memory_fault_until_touched() {
    let (buffer, memory) = (Buffer::new(0x20_000), Ranges::new());
    // SAFETY: as above.
    unsafe { memory.register(buffer.start, buffer.layout.size()) };
    let base = buffer.address();
    memory.set_page(base + 0x1000, PageState::AbsentTimes(1));
    memory.set_page(base + 0x9000, PageState::ReadOnly);
    let model = Model::new(DeviceConfig::dedicated(Personality::v1(), 8), memory.clone());
    let mut portal = model.portal().expect("the first");
    let expect = |code: u8, completed: u32, address: u64| {
        let record = buffer.get(0x10_000, 32);
        assert_eq!((record[0], u32_at(&record, 4), u64_at(&record, 8)), (code, completed, address));
        buffer.set(0x10_000, &[0]);
    };
    for (code, completed, address) in [(0x03, 0x1000, base + 0x1000), (0x83, 0x1000, base + 0x9000)] {
        assert_eq!(portal.submit(&[copy(&buffer, 0x8000, 0x3000, 0)]), Ok(1));
        assert_eq!(model.step(), Step::Ran);
        expect(code, completed, address);
    }
    assert!(memory.touch(base + 0x9000, true));
    assert_eq!(portal.submit(&[copy(&buffer, 0x8000, 0x3000, 0)]), Ok(1));
    assert_eq!(model.step(), Step::Ran);
    assert_eq!(buffer.get(0x10_000, 1), [status::SUCCESS]);
    memory.unregister(buffer.start);
    assert_eq!(portal.submit(&[copy(&buffer, 0x8000, 0x3000, 1)]), Ok(1));
    assert_eq!(model.step(), Step::Ran);
    assert_eq!(buffer.get(0x10_020, 1), [0], "its record's page is gone, too");
    assert_eq!(model.with(|device| device.software_error()).map(|e| e.code), Some(status::RECORD_FAULT));
}

#[test]
fn the_own_process_needs_no_registration() {
    let buffer = Buffer::new(0x20_000);
    buffer.set(0, &pattern_bytes(0x4000));
    // SAFETY: all descriptors of this test name the buffer, which outlives the model.
    let model = Model::new(DeviceConfig::dedicated(Personality::v1(), 8), unsafe { Process::own() });
    let _thread = model.run(Duration::from_micros(50)).expect("a thread");
    let mut portal = model.portal().expect("the first");
    assert_eq!(portal.submit(&[copy(&buffer, 0x8000, 0x3001, 0)]), Ok(1));
    assert_eq!(buffer.wait(0x10_000), status::SUCCESS);
    assert_eq!(buffer.get(0x8000, 0x3001), pattern_bytes(0x3001));
    // Page 0 is never mapped.
    let mut bad = copy(&buffer, 0x8000, 64, 1);
    bad.set_field(at::SOURCE, 0u64.to_le_bytes());
    assert_eq!(portal.submit(&[bad]), Ok(1));
    assert_eq!(buffer.wait(0x10_020), status::PAGE_FAULT);
}

#[test]
fn a_close_takes_everything_back_and_a_new_portal_works() {
    let memory = memory();
    let model = Model::new(DeviceConfig::dedicated(Personality::v1(), 8), memory.clone());
    let mut portal = model.portal().expect("the first");
    assert!(model.portal().is_err(), "a dedicated queue has one client");
    assert_eq!(portal.submit(&[descriptor(0x03, A, B, 64, R)]), Ok(1));
    assert!(!portal.is_closed());
    portal.begin_close();
    portal.begin_close();
    assert!(portal.is_closed());
    assert_eq!(portal.submit(&[descriptor(0x03, A, B, 64, R)]), Err(PortalError::Gone));
    let mut again = model.portal().expect("the first is closed");
    assert_eq!(again.submit(&[descriptor(0x00, 0, 0, 0, R + 32)]), Ok(1));
    assert!(model.with(|device| device.run_to_rest(10)));
    assert_eq!(record(&memory, R), [0; 32], "nothing of the closed one was executed");
    assert_eq!(record(&memory, R + 32)[0], status::SUCCESS);
    assert!(portal.is_closed());
    assert_eq!(model.with(|device| device.counters()).vanished, 1);
}

#[test]
fn a_straggler_keeps_the_portal_open_until_it_ended() {
    let memory = memory();
    let plan = FaultPlan::seeded(1).with(When::number(0), Fault::StraggleOnClose(5));
    let config = DeviceConfig::dedicated(Personality::v1(), 8).with_faults(plan);
    let model = Model::new(config, memory.clone());
    let mut portal = model.portal().expect("the first");
    assert_eq!(portal.submit(&[descriptor(0x03, A, B, 64, R)]), Ok(1));
    portal.begin_close();
    for _ in 0..4 {
        assert_eq!(model.step(), Step::Waiting);
        assert!(!portal.is_closed());
        assert!(model.portal().is_err());
    }
    assert_eq!(model.step(), Step::Ran);
    assert!(portal.is_closed());
    assert_eq!(record(&memory, R)[0], status::SUCCESS, "the late write");
    assert!(model.portal().is_ok());
}

#[test]
fn dropping_a_portal_waits_for_nothing_and_leaves_nothing() {
    let memory = memory();
    let plan = FaultPlan::seeded(1).with(When::default(), Fault::StraggleOnClose(UNTIL_RELEASED));
    let model = Model::new(DeviceConfig::shared(Personality::v1(), 8, 8).with_faults(plan), memory.clone());
    let mut portal = model.portal().expect("shared");
    assert_eq!(portal.submit(&[descriptor(0x03, A, B, 64, R)]), Ok(1));
    drop(portal);
    assert_eq!(model.step(), Step::Idle);
    assert_eq!(record(&memory, R), [0; 32]);
}

#[test]
fn a_batch_is_refused_where_user_submission_is_unsafe() {
    let model = Model::new(DeviceConfig::shared(Personality::v1_restricted(), 8, 8), memory());
    let mut portal = model.portal().expect("shared");
    let batch = descriptor(0x01, D, 0, 2, R);
    assert_eq!(portal.submit(&[batch]), Err(PortalError::Refused(libc::EINVAL)));
    assert_eq!(portal.submit(&[descriptor(0, 0, 0, 0, R), batch]), Ok(1));
}
