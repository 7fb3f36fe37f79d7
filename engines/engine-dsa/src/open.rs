//! From a queue that was discovered to a backend that works.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::backend::{DsaBackend, Options};
use crate::caps::GenCap;
use crate::discover::{self, Mode, Paths};
use crate::portal::{self, Portal};
use crate::queue::Setup;

/// Why there is no backend over a queue.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Something speaks against using it; the first of what discovery found.
    #[error("{queue} cannot be used: {reason}")]
    Unusable {
        /// Its name.
        queue: String,
        /// Why, with what helps.
        reason: String,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Portal(#[from] portal::OpenError),
    /// There is no memory for its completion records.
    #[error("no memory for completion records: {}", std::io::Error::from_raw_os_error(*.errno))]
    Memory {
        /// The error number.
        errno: i32,
    },
    /// Queues that were given up are not closed by their devices, and hold nodes, threads and memory.
    #[error(
        "{count} queues that were given up have not been closed by their devices; none is opened until some are"
    )]
    Lingering {
        /// How many there are.
        count: usize,
    },
    /// It was opened, but what it is given does not complete.
    #[error("a NOOP and a small copy did not complete within {patience:?}; the kernel log may say why")]
    Silent {
        /// How long was waited.
        patience: Duration,
    },
    /// It was opened, but does not work.
    #[error(
        "a NOOP or a small copy failed with status {status:#04x} (0: nothing was taken, or copied wrongly)"
    )]
    Broken {
        /// Status of the completion record.
        status: u8,
    },
}

/// Told where a queue's pool of records is; what it returns is dropped before the pool.
pub type Watch = Box<dyn Fn(*mut u8, usize) -> Box<dyn Send> + Send>;

/// An open queue, and what is known of it.
pub struct Opened {
    /// Where descriptors go in.
    pub portal: Box<dyn Portal>,
    /// What queue and device can do.
    pub setup: Setup,
    /// For devices that must be told which memory they may use.
    pub watch: Option<Watch>,
}

/// Opens a queue, at first and after every fault. It may block.
pub type Opener = Arc<dyn Fn() -> Result<Opened, OpenError> + Send + Sync>;

impl Setup {
    /// Of a queue that was discovered.
    pub fn of(queue: &discover::Queue) -> Setup {
        let mode = queue.mode.unwrap_or(Mode::Shared);
        Setup {
            operations: queue.ops,
            gen_cap: queue.gen_cap.unwrap_or(GenCap(0)),
            max_transfer: queue.max_transfer,
            max_batch: queue.max_batch,
            credits: Setup::credits(mode, queue.size.unwrap_or(1), queue.threshold),
        }
    }
}

/// Opens a queue that discovery found under `paths` and proves that it works: a NOOP and a small copy. The
/// backend is named after the queue, as in `dsa wq0.1`.
///
/// When it is revived, the queue's attributes are read again, so that capabilities that changed are seen, and
/// a queue that was disabled is not opened.
pub fn open(paths: &Paths, queue: &discover::Queue, options: Options) -> Result<DsaBackend, OpenError> {
    let (paths, wanted) = (paths.clone(), queue.name.clone());
    let opener: Opener = Arc::new(move || {
        let now = discover::scan(&paths);
        match now.queues().find(|queue| queue.name == wanted) {
            Some(queue) => open_portal(queue),
            None => Err(OpenError::Unusable { queue: wanted.clone(), reason: "it is not there".into() }),
        }
    });
    let mut backend = DsaBackend::open(&format!("dsa {}", queue.name), opener, options)?;
    backend.prove()?;
    Ok(backend)
}

/// Opens the queue's portal, if nothing speaks against it.
fn open_portal(queue: &discover::Queue) -> Result<Opened, OpenError> {
    if let Some(obstacle) = queue.obstacles.first() {
        return Err(OpenError::Unusable { queue: queue.name.clone(), reason: obstacle.to_string() });
    }
    Ok(Opened { portal: portal::open(queue)?, setup: Setup::of(queue), watch: None })
}
