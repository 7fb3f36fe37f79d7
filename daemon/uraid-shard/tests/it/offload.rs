//! Finding and looking after work queues, with models in this process and a tree that describes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_tx::{OpKind, Policies, Policy, Thresholds};
use dsa_model::device::{DeviceConfig, State};
use dsa_model::memory::Process;
use dsa_model::model::{DeviceThread, Model};
use dsa_model::personality::Personality;
use dsa_model::sysfs::{self, DeviceEntry, QueueEntry};
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::discover::Paths;
use engine_dsa::open::{OpenError, Opened, Opener};
use engine_dsa::queue::Setup;
use uraid_shard::{DsaUse, EngineError, Offload, OffloadConfig, OpenQueue, Standing, engine};

/// A machine with queues; they end with it.
struct Machine {
    directory: tempfile::TempDir,
    models: Vec<Model>,
    _threads: Vec<DeviceThread>,
}

impl Machine {
    /// One device with these queues, all of them enabled and named for uraid.
    fn new(queues: &[DeviceConfig]) -> Machine {
        let directory = tempfile::tempdir().unwrap();
        let dev = directory.path().join("dev");
        std::fs::create_dir(&dev).unwrap();
        (0..queues.len()).for_each(|n| std::fs::write(dev.join(format!("wq0.{n}")), "").unwrap());
        // SAFETY: the model gets descriptors from backends alone, which name memory that stays in place
        // until the model is done with it.
        let model = |config: &DeviceConfig| Model::new(config.clone(), unsafe { Process::own() });
        let models: Vec<Model> = queues.iter().map(model).collect();
        let threads = models.iter().map(|model| model.run(Duration::from_micros(100)).unwrap()).collect();
        let entry = |config: &DeviceConfig| QueueEntry { name: "uraid-test".into(), config: config.clone() };
        let device = DeviceEntry { number: 0, numa_node: -1, queues: queues.iter().map(entry).collect() };
        sysfs::write(&directory.path().join("sysfs"), &device).unwrap();
        Machine { directory, models, _threads: threads }
    }

    fn sysfs(&self) -> PathBuf {
        self.directory.path().join("sysfs")
    }

    fn set(&self, queue: usize, state: State) {
        sysfs::write_state(&self.sysfs(), 0, queue, state).unwrap();
    }

    fn config(&self) -> OffloadConfig {
        let dev = self.directory.path().join("dev");
        let paths = Paths { sysfs: self.sysfs(), dev, ..Paths::default() };
        // Nothing is measured: what the tests are about does not depend on how fast this machine is.
        OffloadConfig { paths, policies: Policies::all(Policy::From(4096)), ..OffloadConfig::default() }
    }

    fn offload(&self, config: OffloadConfig) -> Offload {
        let models = self.models.clone();
        let open: OpenQueue = Arc::new(move |_, queue| {
            let (model, setup) = (models[queue.number as usize].clone(), Setup::of(queue));
            let opener: Opener = Arc::new(move || {
                let busy = |_| OpenError::Unusable { queue: "it".into(), reason: "it is in use".into() };
                Ok(Opened { portal: Box::new(model.portal().map_err(busy)?), setup, watch: None })
            });
            let name = format!("dsa {}", queue.name);
            let opened = DsaBackend::open(&name, opener, Options::default());
            let mut backend = opened.map_err(|error| error.to_string())?;
            backend.prove().map_err(|error| error.to_string())?;
            Ok(backend)
        });
        Offload::with_opener(config, open)
    }
}

fn shared() -> DeviceConfig {
    DeviceConfig::shared(Personality::v1_restricted(), 32, 24)
}

/// What is said of each queue: `used`, or why not.
fn standings(offload: &Offload) -> Vec<String> {
    let standing = |standing: &Standing| match standing {
        Standing::Used { backend, method, .. } => format!("used as {backend} by {method}"),
        Standing::Unused(why) => why.clone(),
    };
    offload.queues().iter().map(|queue| standing(&queue.standing)).collect()
}

#[test]
fn a_queue_is_used_and_another_takes_its_place() {
    let machine = Machine::new(&[shared(), shared()]);
    let mut offload = machine.offload(machine.config());
    let change = offload.look();
    assert!(change.remove.is_empty());
    let [new] = change.add.try_into().ok().expect("one queue does all that is wanted");
    assert_eq!(new.backend.name(), "dsa wq0.0");
    assert_eq!(new.thresholds.get(OpKind::Copy), Some(4096));
    let other = "others are nearer or less used";
    assert_eq!(standings(&offload), ["used as dsa wq0.0 by model", other]);
    assert_eq!(offload.why_none(), None);
    assert!(offload.look().is_empty(), "nothing has changed");

    machine.set(0, State::Disabled);
    let change = offload.look();
    assert_eq!(change.remove, ["dsa wq0.0"]);
    assert_eq!(change.add.iter().map(|new| new.backend.name()).collect::<Vec<_>>(), ["dsa wq0.1"]);
    let said = standings(&offload);
    assert!(said[0].contains("the queue is disabled"), "{said:?}");
    assert_eq!(said[1], "used as dsa wq0.1 by model");
    drop(new);

    // It comes back, and is as good as the one in use, which is kept.
    machine.set(0, State::Enabled);
    assert!(offload.look().is_empty());
    assert_eq!(standings(&offload), [other, "used as dsa wq0.1 by model"]);
    std::fs::remove_dir_all(machine.sysfs()).unwrap();
    assert_eq!(offload.look().remove, ["dsa wq0.1"]);
    assert!(offload.why_none().unwrap().contains("cannot be read"));
}

#[test]
fn a_dedicated_queue_that_is_taken_leaves_its_place_to_the_next() {
    let dedicated = DeviceConfig::dedicated(Personality::v1_restricted(), 16);
    let machine = Machine::new(&[dedicated, shared()]);
    let (mut first, mut second) = (machine.offload(machine.config()), machine.offload(machine.config()));
    let one = first.look().add;
    assert_eq!(one.iter().map(|new| new.backend.name()).collect::<Vec<_>>(), ["dsa wq0.0"]);
    let two = second.look().add;
    assert_eq!(two.iter().map(|new| new.backend.name()).collect::<Vec<_>>(), ["dsa wq0.1"]);
    let said = standings(&second);
    assert!(said[0].contains("it is in use"), "{said:?}");
    // The other one keeps what it has; what would be as near is not worth a change.
    assert!(second.look().is_empty());
    drop(one);
    let change = second.look();
    assert!(change.is_empty() || change.remove == ["dsa wq0.1"], "{:?}", change.remove);
}

#[test]
fn the_configuration_is_obeyed() {
    let machine = Machine::new(&[shared(), shared()]);
    let config = OffloadConfig { queues: vec!["wq0.1".into()], ..machine.config() };
    let mut offload = machine.offload(config);
    assert_eq!(offload.look().add.len(), 1);
    let said = standings(&offload);
    assert_eq!(said[0], "it is not among the queues of the configuration");
    assert!(said[1].starts_with("used"), "{said:?}");

    let mut off = machine.offload(OffloadConfig { dsa: DsaUse::Off, ..machine.config() });
    assert!(off.look().is_empty() && off.queues().is_empty() && !off.is_on());

    let never = OffloadConfig { policies: Policies::all(Policy::Never), ..machine.config() };
    let mut offload = machine.offload(never);
    assert!(offload.look().is_empty());
    assert!(standings(&offload)[0].contains("neither copies nor fills"));

    let some = Policies::all(Policy::Never).with(OpKind::Fill, Policy::From(0));
    let mut offload = machine.offload(OffloadConfig { policies: some, ..machine.config() });
    let [new] = offload.look().add.try_into().ok().expect("fills are wanted");
    assert_eq!(new.thresholds.get(OpKind::Copy), Some(Thresholds::OFF));
    assert_eq!(new.thresholds.get(OpKind::Fill), Some(0));
}

#[test]
fn what_was_not_measured_is_not_offloaded() {
    let machine = Machine::new(&[shared()]);
    let mut offload = machine.offload(OffloadConfig { policies: Policies::default(), ..machine.config() });
    let [new] = offload.look().add.try_into().ok().expect("a queue");
    // What the measurement says of copies depends on the machine; that it says something does not.
    for kind in OpKind::ALL {
        assert!(new.thresholds.get(kind).is_some(), "{kind:?} is left to the device's default");
    }
    for kind in [OpKind::Xor, OpKind::Pq, OpKind::PqUpdate, OpKind::Recover] {
        assert_eq!(new.thresholds.get(kind), Some(Thresholds::OFF), "{kind:?}");
    }
}

#[test]
fn a_requirement_is_met_or_refused() {
    let machine = Machine::new(&[shared()]);
    let require = OffloadConfig { dsa: DsaUse::Require, ..machine.config() };
    let offload = machine.offload(require.clone());
    let Ok((made, offload)) = engine("portable", offload) else { panic!("there is a queue") };
    assert_eq!(made.stats().backends.len(), 1);
    assert!(offload.why_none().is_none());
    drop(made);
    machine.set(0, State::Disabled);
    let refused = engine("portable", machine.offload(require)).err().expect("there is none");
    assert!(matches!(&refused, EngineError::NoQueue { why } if why.contains("disabled")), "{refused}");
    // Without the requirement it is no error.
    assert!(engine("portable", machine.offload(machine.config())).is_ok());
    assert!(matches!(engine("abacus", machine.offload(machine.config())), Err(EngineError::Kernels(_))));
}

/// The node of a model that was killed is still there, but nobody answers. It is tried again at each look.
#[test]
fn a_queue_that_does_not_answer_is_not_used() {
    let machine = Machine::new(&[shared()]);
    let node = machine.directory.path().join("dev/wq0.0");
    std::fs::remove_file(&node).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&node).unwrap());
    let mut offload = Offload::new(machine.config());
    for _ in 0..2 {
        assert!(offload.look().is_empty());
        let said = standings(&offload);
        assert!(said[0].contains("cannot be opened"), "{said:?}");
    }
}
