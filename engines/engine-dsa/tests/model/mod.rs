//! Backends over models of a device in this process.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_tx::Region;
use dsa_model::device::{DeviceConfig, Mode};
use dsa_model::memory::Ranges;
use dsa_model::model::Model;
use dsa_model::personality::Personality;
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::discover;
use engine_dsa::open::{OpenError, Opened, Opener, Watch};
use engine_dsa::queue::Setup;

/// Takes memory back from the device when it is dropped.
struct Registered {
    ranges: Ranges,
    start: *mut u8,
}

// SAFETY: the pointer is only a name; what is behind it may be accessed from any thread until it is taken
// back, as `Ranges::register` was promised.
unsafe impl Send for Registered {}

impl Drop for Registered {
    fn drop(&mut self) {
        self.ranges.unregister(self.start);
    }
}

/// Lets the device use a region. It must stay as long as the device has any of it in an operation.
pub(crate) fn register(ranges: &Ranges, region: Region) {
    // SAFETY: the tests keep memory longer than the backends and devices that they give it to, and keep
    // the rules of regions.
    unsafe { ranges.register(region.as_ptr(), region.len()) };
}

/// What discovery would say of this device and its queue.
pub(crate) fn setup(config: &DeviceConfig) -> Setup {
    let Personality { gen_cap, max_transfer, max_batch, .. } = config.personality;
    let mut operations = OpSet::default();
    (0..=u8::MAX).filter(|number| config.personality.supports(*number)).for_each(|n| operations.insert(n));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (mode, threshold) = match config.mode {
        Mode::Dedicated => (discover::Mode::Dedicated, None),
        Mode::Shared => (discover::Mode::Shared, Some(count(config.threshold))),
    };
    Setup {
        operations,
        gen_cap: GenCap(gen_cap),
        max_transfer: u64::from(max_transfer),
        max_batch,
        credits: Setup::credits(mode, count(config.size), threshold),
    }
}

/// A place with a model in it, which can be replaced by another one.
pub(crate) type Seat = Arc<Mutex<Model>>;

/// Opens the queue of the model in `seat`; its pools of records are registered with `ranges`.
pub(crate) fn opener(seat: &Seat, ranges: &Ranges) -> Opener {
    let (seat, ranges) = (Arc::clone(seat), ranges.clone());
    Arc::new(move || {
        let model = seat.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let setup = model.with(|device| setup(device.config()));
        let portal = model.portal().map_err(|_| OpenError::Broken { status: 0 })?;
        let ranges = ranges.clone();
        let watch: Watch = Box::new(move |start, len| {
            // SAFETY: the queue keeps its pool until what this returns was dropped.
            unsafe { ranges.register(start, len) };
            Box::new(Registered { ranges: ranges.clone(), start })
        });
        Ok(Opened { portal: Box::new(portal), setup, watch: Some(watch) })
    })
}

/// Options under which everything is offloaded, and a revival needs no other thread than the device's.
pub(crate) fn options() -> Options {
    Options { len_min: 0, threaded: false, patience: Duration::from_secs(1), ..Options::default() }
}

/// A backend over the model in `seat`.
pub(crate) fn backend(seat: &Seat, ranges: &Ranges, options: Options) -> DsaBackend {
    DsaBackend::open("dsa model", opener(seat, ranges), options).expect("the model's queue opens")
}
