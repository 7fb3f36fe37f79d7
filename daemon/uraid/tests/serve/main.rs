//! The daemon as operators and clients meet it: the real binary, member files, an NBD client over real
//! sockets, signals. No other program is needed but
//! `wipefs`, which the daemon itself calls, and `losetup`.

#[cfg(test)]
mod client;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod life;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod refusals;
mod scrub;
#[cfg(test)]
mod world;
