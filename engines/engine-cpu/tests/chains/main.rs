//! Chains through every kind of engine, against a model that interprets the definitions byte by byte.
//!
//! Random chains come from fixed seeds. `ASYNC_TX_CASES=N` multiplies their number by `N`.

#[cfg(test)]
mod batches;
#[cfg(test)]
mod cutting;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod handles;
#[cfg(test)]
mod health;
#[cfg(test)]
mod late;
#[cfg(test)]
mod manual;
#[cfg(test)]
mod model;
#[cfg(test)]
mod order;
#[cfg(test)]
mod same_bytes;
#[cfg(test)]
mod world;
