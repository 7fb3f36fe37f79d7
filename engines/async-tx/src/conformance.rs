//! What every [`crate::Backend`] has to pass.
