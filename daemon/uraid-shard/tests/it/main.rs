//! The runner over members in memory, and whole shards over files and sockets.

#[cfg(test)]
mod devices;
#[cfg(test)]
mod handover;
#[cfg(test)]
mod nbd;
#[cfg(test)]
mod offload;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod told;
#[cfg(test)]
mod volume;
