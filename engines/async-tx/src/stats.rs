//! Counters for operators and tests.

/// What an [`crate::Engine`] counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EngineStats {
    /// The CPU backend's name.
    pub cpu: String,
    /// Operations that ran on the CPU, notifications included.
    pub cpu_ops: u64,
    /// Those of them that a backend was to run but failed or had no room for.
    pub cpu_retries: u64,
    /// Completions that named no operation in the hands of the backend that reported them.
    pub stray_completions: u64,
    /// The other backends, in the order of preference.
    pub backends: Vec<BackendStats>,
}

/// What is known of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendStats {
    /// Its name.
    pub name: String,
    /// It failed an operation and gets no more.
    pub quarantined: bool,
    /// Operations, or steps of cut ones, that it took.
    pub submitted: u64,
    /// Those that ended well.
    pub completed: u64,
    /// Those that failed.
    pub failed: u64,
    /// Operations that it had no room for.
    pub queue_full: u64,
}
