//! A backend over the single-stepped model, in this process.
#![allow(dead_code, reason = "every test binary has its own part of it")]

use std::sync::{Arc, Mutex};

use async_tx::Region;
use dsa_model::device::{ClientId, DeviceConfig, Mode, Step, Submit};
use dsa_model::memory::Ranges;
use dsa_model::model::{Model, ModelPortal};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::discover;
use engine_dsa::open::{OpenError, Opened, Opener};
use engine_dsa::portal::{Portal, PortalError};
use engine_dsa::queue::Setup;
use engine_dsa::wire::{Descriptor, Opcode, at};

/// What a driver reads of such a device.
pub(crate) fn setup_of(config: &DeviceConfig) -> Setup {
    let personality = &config.personality;
    let mut operations = OpSet::EMPTY;
    for number in 0..=u8::MAX {
        if personality.supports(number) {
            operations.insert(number);
        }
    }
    let mode = match config.mode {
        Mode::Dedicated => discover::Mode::Dedicated,
        Mode::Shared => discover::Mode::Shared,
    };
    Setup {
        operations,
        gen_cap: GenCap(personality.gen_cap),
        max_transfer: u64::from(personality.max_transfer),
        max_batch: personality.max_batch,
        credits: Setup::credits(mode, config.size as u32, Some(config.threshold as u32)),
    }
}

#[derive(Default)]
struct Trouble {
    /// Descriptors wait here while the device hangs.
    stalled: bool,
    held: Vec<Descriptor>,
    /// Whose they are.
    client: Option<ClientId>,
    /// The next operation fails.
    fail: bool,
    /// The device was taken away.
    gone: bool,
}

/// A device, the memory it may use, and trouble on its way in.
#[derive(Clone)]
pub(crate) struct Stepped {
    config: DeviceConfig,
    model: Arc<Mutex<Model>>,
    pub(crate) memory: Ranges,
    trouble: Arc<Mutex<Trouble>>,
}

impl Stepped {
    pub(crate) fn new(config: DeviceConfig, memory: &Ranges) -> Self {
        let model = Arc::new(Mutex::new(Model::new(config.clone(), memory.clone())));
        Stepped { config, model, memory: memory.clone(), trouble: Arc::default() }
    }

    /// The device that is there now.
    pub(crate) fn model(&self) -> Model {
        self.model.lock().unwrap().clone()
    }

    /// Takes the device away.
    pub(crate) fn unplug(&self) {
        self.model().with(|device| device.unplug());
        self.trouble.lock().unwrap().gone = true;
    }

    /// Lets the device take what was held, and move.
    pub(crate) fn step(&self) -> Step {
        let mut trouble = self.trouble.lock().unwrap();
        if !trouble.stalled
            && let Some(client) = trouble.client
        {
            let held = std::mem::take(&mut trouble.held);
            for descriptor in &held {
                let submitted = self.model().with(|device| device.submit(client, descriptor));
                assert!(trouble.gone || submitted == Ok(Submit::Accepted));
            }
        }
        drop(trouble);
        self.model().step()
    }

    pub(crate) fn stall(&self) {
        self.trouble.lock().unwrap().stalled = true;
    }

    pub(crate) fn fail_next(&self) {
        self.trouble.lock().unwrap().fail = true;
    }

    /// Ends all trouble: what was held goes in with the next step, in the place of a device that was taken
    /// away there is a fresh one.
    pub(crate) fn heal(&self) {
        let mut trouble = self.trouble.lock().unwrap();
        (trouble.stalled, trouble.fail) = (false, false);
        if std::mem::take(&mut trouble.gone) {
            *self.model.lock().unwrap() = Model::new(self.config.clone(), self.memory.clone());
        }
    }

    /// Opens the device. Its own claims are read anew each time.
    pub(crate) fn opener(&self) -> Opener {
        let device = self.clone();
        Arc::new(move || device.open())
    }

    pub(crate) fn open(&self) -> Result<Opened, OpenError> {
        let busy = |_| OpenError::Unusable { queue: "model".into(), reason: "it is in use".into() };
        let inner = self.model().portal().map_err(busy)?;
        // The configuration holds the personality of now.
        let setup = self.model().with(|device| setup_of(device.config()));
        let portal = Box::new(SteppedPortal { inner, device: self.clone() });
        let memory = self.memory.clone();
        let watch = move |start: *mut u8, len: usize| -> Box<dyn Send> {
            Box::new(Registered::new(&memory, start, len))
        };
        Ok(Opened { portal, setup, watch: Some(Box::new(watch)) })
    }
}

/// A portal that lets the device move when it is asked whether it is closed, for nobody else might.
struct SteppedPortal {
    inner: ModelPortal,
    device: Stepped,
}

impl Portal for SteppedPortal {
    fn method(&self) -> &'static str {
        "model"
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        let mut trouble = self.device.trouble.lock().unwrap();
        let Some(first) = descriptors.first().filter(|_| trouble.fail || trouble.stalled) else {
            drop(trouble);
            return self.inner.submit(descriptors);
        };
        if trouble.stalled {
            trouble.held.extend(descriptors);
            trouble.client = Some(self.inner.client());
            return Ok(descriptors.len());
        }
        trouble.fail = false;
        let mut spoiled = *first;
        if spoiled.opcode() == Opcode::Batch as u8 {
            // The first member of the list.
            let list = u64::from_le_bytes(first.field(at::SOURCE)) as usize;
            let to = std::ptr::with_exposed_provenance_mut::<Descriptor>(list);
            // SAFETY: the list of a batch that is being submitted: its pool is mapped, and the device was
            // not told of it yet.
            unsafe {
                let mut member = to.read_volatile();
                spoil(&mut member);
                to.write_volatile(member);
            }
        } else {
            spoil(&mut spoiled);
        }
        self.inner.submit(&[spoiled])
    }

    fn begin_close(&mut self) {
        self.device.trouble.lock().unwrap().held.clear();
        self.inner.begin_close();
    }

    fn is_closed(&mut self) -> bool {
        self.device.step();
        self.inner.model().step();
        self.inner.is_closed()
    }
}

/// Gives a descriptor an opcode that no device has.
fn spoil(descriptor: &mut Descriptor) {
    let flags = descriptor.flags();
    descriptor.set_operation(0x0b, flags);
}

/// Memory that the device may use while this lives.
pub(crate) struct Registered {
    memory: Ranges,
    start: usize,
}

impl Registered {
    pub(crate) fn new(memory: &Ranges, start: *mut u8, len: usize) -> Self {
        // SAFETY: who gives the memory keeps it until this is dropped, and leaves what the device writes
        // alone while it does: that is the promise of a queue for its pool, and of a region.
        unsafe { memory.register(start, len) };
        Registered { memory: memory.clone(), start: start.expose_provenance() }
    }

    pub(crate) fn of(memory: &Ranges, region: Region) -> Self {
        Registered::new(memory, region.as_ptr(), region.len())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.memory.unregister(std::ptr::with_exposed_provenance_mut(self.start));
    }
}
