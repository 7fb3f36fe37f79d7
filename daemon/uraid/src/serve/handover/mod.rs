//! From one process to the next: connections, listening sockets and the kernel's device go through the
//! service manager's fd store, so that a restart is a pause to whoever uses the volume.
//!
//! | | |
//! |---|---|
//! | `state` | what is said about the descriptors: one image in a memfd, with a mark that is good once |
//! | `session` | what was agreed with a client, in words that the next version understands |
//! | `store` | the service manager: give, take away, make sure |
//! | `leave` | the old process's part |
//! | `inherit` | the new process's part |
//!
//! **Order of the old process**: nothing is read any more, everything that was begun is done and answered, the
//! array is marked clean and closed (all that is the shard's part), sockets are stored, then the state, and
//! last it is made sure that the manager has taken all of it.
//!
//! **Order of the new process**: the array is put together, the state is read and compared with it, the mark
//! is unmade **before** the first byte is moved on any socket, the connections go to the shard, and the store
//! is emptied.
//!
//! **A crash in between.** Before the state is stored: the sockets in the store have no state, and are shut
//! down by whoever gets them. After that and before the mark is unmade: the state is good, and the next
//! process goes on with it; nothing was moved. After the mark is unmade: what lies in the sockets is not known
//! any more, and whoever gets them shuts them down. A socket that is shut down is a broken connection to a
//! client; for the kernel the device gets new ones, as after any crash.

mod inherit;
mod leave;
mod session;
mod state;
mod store;

pub(super) use inherit::Inheritance;
pub(super) use leave::{Leaving, leave};
pub(super) use state::{ArrayFacts, DeviceRecord};
pub(super) use store::is_there as manager_is_there;
