//! A device shared between threads: handles, portals, and a thread that steps it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use engine_dsa::portal::{Portal, PortalError};
use engine_dsa::wire::Descriptor;

use crate::device::{Busy, CallError, ClientId, Device, DeviceConfig, Step};
use crate::memory::Memory;

struct Shared {
    device: Mutex<Device>,
    /// Told whenever there may be something to do.
    work: Condvar,
}

/// A handle on a device. Clones share it.
///
/// Stepped by hand with [`step`](Self::step), or by a [`DeviceThread`]; portals work alike with both.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

impl Model {
    /// A device behind a handle.
    pub fn new(config: DeviceConfig, memory: impl Memory + 'static) -> Self {
        Self::from_device(Device::new(config, memory))
    }

    /// The same from a device.
    pub fn from_device(device: Device) -> Self {
        Self(Arc::new(Shared { device: Mutex::new(device), work: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Device> {
        self.0.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the device; its thread looks for work after that.
    pub fn with<T>(&self, f: impl FnOnce(&mut Device) -> T) -> T {
        let result = f(&mut self.lock());
        self.0.work.notify_all();
        result
    }

    /// Steps the device once.
    pub fn step(&self) -> Step {
        self.lock().step()
    }

    /// Opens the queue with the device's own address space.
    pub fn portal(&self) -> Result<ModelPortal, Busy> {
        let client = self.with(Device::open)?;
        Ok(ModelPortal { model: self.clone(), client })
    }

    /// Opens the queue with an address space of the client's own.
    pub fn portal_with(&self, memory: Arc<dyn Memory>) -> Result<ModelPortal, Busy> {
        let client = self.with(|device| device.open_with(memory))?;
        Ok(ModelPortal { model: self.clone(), client })
    }

    /// Steps the device in a thread of its own until the result is dropped. `tick` is how long a tick takes
    /// in which nothing happens; with work to do, ticks pass as fast as it goes.
    pub fn run(&self, tick: Duration) -> std::io::Result<DeviceThread> {
        let model = self.clone();
        let stop = Arc::new(Mutex::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("dsa-model".into()).spawn(move || {
            let is_stopped = || *stopped.lock().unwrap_or_else(PoisonError::into_inner);
            let mut device = model.lock();
            while !is_stopped() {
                let wait = match device.step() {
                    Step::Ran => {
                        // Between two steps others get at the device, as at a real one.
                        drop(device);
                        std::thread::yield_now();
                        device = model.lock();
                        continue;
                    }
                    Step::Waiting => tick,
                    Step::Idle => Duration::from_secs(1),
                };
                device = model.0.work.wait_timeout(device, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        })?;
        Ok(DeviceThread { model: self.clone(), stop, thread: Some(thread) })
    }
}

/// A thread that steps a device. Dropping it stops and joins the thread; what was outstanding stays so.
pub struct DeviceThread {
    model: Model,
    stop: Arc<Mutex<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        // Under the device's lock, so that the thread is either stepping or waiting, and is told.
        self.model.with(|_| *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true);
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there is nobody here to tell.
            drop(thread.join());
        }
    }
}

/// An open queue of a model in this process. Dropping it closes it as close(2) does: all that was
/// outstanding is dropped before the drop returns, stragglers too.
pub struct ModelPortal {
    model: Model,
    client: ClientId,
}

impl ModelPortal {
    /// The device behind it.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// This client's name in the device.
    pub fn client(&self) -> ClientId {
        self.client
    }
}

impl Portal for ModelPortal {
    fn method(&self) -> &'static str {
        "model"
    }

    /// As through a mapped portal, but several at once, and with the refusals that the fault plan has; BATCH
    /// is refused with EINVAL where user submission is unsafe.
    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        self.model.with(|device| device.call(self.client, descriptors, false)).map_err(|error| match error {
            CallError::Retry => PortalError::Retry,
            CallError::Refused(errno) => PortalError::Refused(errno),
            CallError::Gone => PortalError::Gone,
        })
    }

    fn begin_close(&mut self) {
        self.model.with(|device| device.begin_close(self.client));
    }

    fn is_closed(&mut self) -> bool {
        self.model.lock().is_closed(self.client)
    }
}

impl Drop for ModelPortal {
    fn drop(&mut self) {
        self.model.with(|device| device.close(self.client));
    }
}
