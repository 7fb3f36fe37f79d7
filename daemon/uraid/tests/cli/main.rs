//! The commands as a person or script runs them: the real binary, real files, and the system's own tools
//! as judges. A test that lacks its tool fails and says which package has it.

#[cfg(test)]
mod assembly;
#[cfg(test)]
mod create;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod examine;
#[cfg(test)]
mod status;
#[cfg(test)]
mod support;
#[cfg(test)]
mod usage;
