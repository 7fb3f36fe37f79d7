//! One short test for each concept of the async_tx API, named after its row in `docs/chain-engine.md`, so
//! that the table there can say where a concept lives and what shows it.

#[cfg(test)]
mod chains;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod controls;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod stripes;
#[cfg(test)]
mod support;
