//! The DSA backend passes the conformance suite over models of the device: stepped by hand, and in a thread
//! of their own. Over the model in another process: `conformance_process` of `dsa-model`.

#![cfg(test)]

mod model;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_tx::conformance::{self, Point, Subject, Trouble};
use async_tx::{Backend, Region};
use dsa_model::device::DeviceConfig;
use dsa_model::faults::{ALWAYS, Fault, FaultPlan, When};
use dsa_model::memory::{PAGE, PageState, Ranges};
use dsa_model::model::{DeviceThread, Model};
use dsa_model::personality::Personality;
use engine_dsa::backend::Options;
use model::Seat;

/// A model of a device, stepped by hand or by a thread.
struct Modelled {
    config: DeviceConfig,
    options: Options,
    threaded: bool,
    ranges: Ranges,
    memory: Option<Region>,
    seat: Option<Seat>,
    thread: Option<DeviceThread>,
    stalled: bool,
    gone: bool,
}

impl Modelled {
    fn new(config: DeviceConfig, options: Options, threaded: bool) -> Modelled {
        let (ranges, memory, seat, thread) = (Ranges::new(), None, None, None);
        Modelled { config, options, threaded, ranges, memory, seat, thread, stalled: false, gone: false }
    }

    /// The device that is there now.
    fn device(&self) -> Option<Model> {
        let seat = self.seat.as_ref()?;
        Some(seat.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn fresh(&self) -> Model {
        Model::new(self.config.clone(), self.ranges.clone())
    }

    fn go(&mut self) {
        self.stalled = false;
        if std::mem::take(&mut self.gone) {
            self.thread = None;
            let fresh = self.fresh();
            if let Some(seat) = &self.seat {
                *seat.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
            }
        }
        if let Some(model) = self.device().filter(|_| self.threaded && self.thread.is_none()) {
            self.thread = Some(model.run(Duration::from_micros(20)).expect("a thread for the device"));
        }
    }

    /// Makes all operands' pages of a kind.
    fn pages(&self, state: PageState) {
        let Some(memory) = self.memory else { return };
        let start = memory.as_ptr().expose_provenance() as u64;
        let mut page = start;
        while page < start + memory.len() as u64 {
            self.ranges.set_page(page, state);
            page += PAGE;
        }
    }
}

impl Subject for Modelled {
    fn memory(&mut self, memory: Region) {
        model::register(&self.ranges, memory);
        self.memory = Some(memory);
    }

    fn backend(&mut self) -> Box<dyn Backend> {
        self.pages(PageState::Present);
        (self.thread, self.gone) = (None, false);
        let seat = Arc::new(Mutex::new(self.fresh()));
        let backend = model::backend(&seat, &self.ranges, self.options);
        self.seat = Some(seat);
        self.go();
        Box::new(backend)
    }

    fn step(&mut self) {
        match self.device() {
            Some(model) if !self.threaded && !self.stalled => {
                model.step();
            }
            _ => std::thread::yield_now(),
        }
    }

    /// What fails is that the pages are not there, and do not come however often they are touched.
    fn inject(&mut self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Fail => self.pages(PageState::Missing),
            Trouble::Stall => (self.stalled, self.thread) = (true, None),
            Trouble::Gone => {
                self.gone = true;
                if let Some(model) = self.device() {
                    model.with(|device| device.unplug());
                }
            }
            Trouble::Heal => {
                self.pages(PageState::Present);
                self.go();
            }
        }
        true
    }
}

/// Nothing that a driver may complain about: ready entries go in random order, and so do members of batches
/// between fences; data is written in pieces; records come late; and some of what is outstanding when the
/// queue is closed is still executed, some time after.
fn awkward(config: DeviceConfig) -> DeviceConfig {
    let some = || When::chance(ALWAYS / 4);
    let faults = FaultPlan::seeded(7)
        .with_reorder(ALWAYS)
        .with(some(), Fault::Scatter)
        .with(some(), Fault::DelayRecord(6))
        .with(some(), Fault::StraggleOnClose(40));
    config.with_faults(faults)
}

/// The suite over this device; returns the points that could not be tried.
fn passes(config: DeviceConfig, options: Options, threaded: bool) -> Vec<Point> {
    let report = conformance::run(&mut Modelled::new(config, options, threaded));
    assert!(report.passed(), "{report}");
    report.not_tried().collect()
}

const WITHOUT_BATCHES: [Point; 2] = [Point::Fence, Point::AbandonedBehindFence];

#[test]
fn a_dedicated_queue_of_version_1_0_passes_every_point() {
    let config = awkward(DeviceConfig::dedicated(Personality::v1_restricted(), 16));
    assert_eq!(passes(config, model::options(), false), WITHOUT_BATCHES, "there are no batches to fence in");
}

#[test]
fn a_shared_queue_of_version_2_0_with_batches_passes_every_point() {
    let config = awkward(DeviceConfig::shared(Personality::v2(), 16, 12));
    assert_eq!(passes(config, model::options(), false), []);
}

#[test]
fn a_queue_of_one_entry_and_small_transfers_passes_every_point() {
    let personality = Personality { max_transfer: 4096, max_batch: 3, ..Personality::v2() };
    assert_eq!(passes(DeviceConfig::dedicated(personality, 1), model::options(), false), []);
}

#[test]
fn a_device_that_runs_by_itself_passes_every_point() {
    let config = awkward(DeviceConfig::dedicated(Personality::v2(), 32));
    assert_eq!(passes(config, model::options(), true), []);
}
