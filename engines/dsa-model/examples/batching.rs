//! What it is worth to gather operations: copies through the chain engine to a model of a device, issued
//! one by one, 8 and 32 at a time.
//!
//! The model says nothing about the speed of hardware, so only ratios are printed: how many times as many
//! operations a second as one by one. What is saved is the price of a submission: a system call and a
//! process that wakes up, behind the socket; a lock and a wake-up, in this process.
//!
//! ```text
//! cargo build -p dsa-model && cargo run -p dsa-model --example batching
//! ```

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_tx::{ChainDone, Engine, EngineConfig, Op, Region};
use dsa_model::device::DeviceConfig;
use dsa_model::memory::Process;
use dsa_model::model::Model;
use dsa_model::personality::Personality;
use engine_cpu::CpuBackend;
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::discover::Mode;
use engine_dsa::open::{OpenError, Opened, Opener};
use engine_dsa::portal::{Portal, SocketPortal};
use engine_dsa::queue::Setup;

/// Operations in flight at once; a round has so many times [`REPEATS`].
const COPIES: usize = 64;
const REPEATS: usize = 16;
/// Bytes of a copy: small, for it is the submission that is looked at.
const LEN: usize = 512;
const BATCHES: [usize; 3] = [1, 8, 32];
const ROUNDS: usize = 61;
const QUEUE: usize = 128;

type Failed = Box<dyn Error>;

/// A model in a process of its own; ended when dropped.
struct Remote {
    child: Child,
    socket: PathBuf,
}

impl Remote {
    fn start(name: &str) -> Result<Remote, Failed> {
        let example = std::env::current_exe()?;
        let program =
            example.parent().and_then(|examples| examples.parent()).ok_or("no directory of programs")?;
        let program = program.join("uraid-dsa-model");
        if !program.exists() {
            return Err(format!("{} is not there: cargo build -p dsa-model", program.display()).into());
        }
        let socket = std::env::temp_dir().join(format!("uraid-batching-{name}-{}", std::process::id()));
        let mut child = Command::new(program)
            .args(["--version", "2.0", "--queue", &format!("dedicated:{QUEUE}"), "--listen"])
            .arg(&socket)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
        Ok(Remote { child, socket })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn setup() -> Setup {
    let personality = Personality::v2();
    let mut operations = OpSet::default();
    (0..=u8::MAX).filter(|number| personality.supports(*number)).for_each(|number| operations.insert(number));
    Setup {
        operations,
        gen_cap: GenCap(personality.gen_cap),
        max_transfer: u64::from(personality.max_transfer),
        max_batch: personality.max_batch,
        credits: Setup::credits(Mode::Dedicated, QUEUE as u32, None),
    }
}

/// An engine that gathers `batch` operations for the device behind `portal`.
fn engine(
    batch: usize,
    portal: impl Fn() -> Result<Box<dyn Portal>, OpenError> + Send + Sync + 'static,
) -> Result<Engine, Failed> {
    let opener: Opener = Arc::new(move || Ok(Opened { portal: portal()?, setup: setup(), watch: None }));
    let options = Options { batch, len_min: 0, rest: Duration::ZERO, ..Options::default() };
    let backend = DsaBackend::open("model", opener, options)?;
    // A busy machine is no reason to give the device up.
    let config = EngineConfig { op_timeout: Duration::from_secs(30), ..EngineConfig::default() };
    Ok(Engine::new(Box::new(CpuBackend::auto())).with_config(config).with_backend(Box::new(backend)))
}

/// Operations a second of one round.
fn round(engine: &mut Engine, memory: &[Region]) -> Result<f64, Failed> {
    let began = Instant::now();
    let mut done: Vec<ChainDone> = Vec::with_capacity(COPIES);
    for _ in 0..REPEATS {
        for (pair, tag) in memory.chunks_exact(2).zip(0u64..) {
            let [src, dst] = *pair else { continue };
            let mut chain = engine.chain();
            chain.push(Op::Copy { src, dst }, &[])?;
            engine.submit(chain, tag);
        }
        engine.issue_pending_all();
        while done.len() < COPIES {
            engine.poll(&mut done);
            std::thread::yield_now();
        }
        for chain in done.drain(..) {
            chain.result?;
        }
    }
    Ok((COPIES * REPEATS) as f64 / began.elapsed().as_secs_f64())
}

/// The median of the ratios of two lists, round by round.
fn median_ratio(rates: &[f64], to: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = rates.iter().zip(to).map(|(rate, to)| rate / to).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(0.0)
}

/// Rounds of all engines, in turn, so that what else the machine does hits all alike.
fn compare(name: &str, engines: &mut [Engine], memory: &[Region]) -> Result<(), Failed> {
    let mut rates = vec![Vec::new(); engines.len()];
    for _ in 0..ROUNDS {
        for (engine, rates) in engines.iter_mut().zip(&mut rates) {
            rates.push(round(engine, memory)?);
        }
    }
    // What else a machine does only ever slows a round down, so the fastest ones tell most; the ratio within
    // each round, whose turns are next to each other, is the check on that.
    let fastest: Vec<f64> = rates.iter().map(|rates| rates.iter().copied().fold(0.0, f64::max)).collect();
    let first = rates.first().cloned().unwrap_or_default();
    let within: Vec<f64> = rates.iter().map(|rates| median_ratio(rates, &first)).collect();
    let one = fastest.first().copied().unwrap_or(1.0);
    for ((batch, (fastest, within)), engine) in
        BATCHES.iter().zip(fastest.iter().zip(&within)).zip(engines.iter())
    {
        let stats = engine.stats();
        let backend = stats.backends.first().ok_or("no backend")?;
        let per_call = backend.submitted as f64 / backend.batches.max(1) as f64;
        let best = fastest / one;
        println!(
            "{name}: gathered {batch:2}: {best:.2} times (fastest), {within:.2} times (median of rounds), \
             {per_call:.1} operations a call"
        );
        if stats.cpu_ops > 0 {
            return Err(format!(
                "{} operations ended on the CPU; this measured something else",
                stats.cpu_ops
            )
            .into());
        }
    }
    Ok(())
}

fn main() -> Result<(), Failed> {
    let mut bytes = vec![0u8; 2 * COPIES * LEN];
    let start = bytes.as_mut_ptr();
    // SAFETY: blocks of `bytes`, which outlives the engines and is not touched while they have chains.
    let memory: Vec<Region> =
        (0..2 * COPIES).map(|i| unsafe { Region::new(start.add(i * LEN), LEN) }).collect();

    let remotes: Vec<Remote> =
        BATCHES.iter().map(|batch| Remote::start(&batch.to_string())).collect::<Result<_, _>>()?;
    let mut engines = Vec::new();
    for (batch, remote) in BATCHES.iter().zip(&remotes) {
        let socket = remote.socket.clone();
        engines.push(engine(*batch, move || Ok(Box::new(SocketPortal::connect(&socket)?)))?);
    }
    compare("another process", &mut engines, &memory)?;
    drop(engines);

    let mut engines = Vec::new();
    let mut threads = Vec::new();
    for batch in BATCHES {
        // SAFETY: descriptors name records of a queue, which keeps them, and blocks of `bytes`.
        let own = unsafe { Process::own() };
        let model = Model::new(DeviceConfig::dedicated(Personality::v2(), QUEUE), own);
        threads.push(model.run(Duration::from_micros(100))?);
        engines.push(engine(batch, move || {
            let portal = model.portal().map_err(|_| OpenError::Broken { status: 0 })?;
            Ok(Box::new(portal))
        })?);
    }
    compare("a thread", &mut engines, &memory)?;
    drop(engines);
    Ok(())
}
