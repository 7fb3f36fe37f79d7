//! What both sides agreed on: the metadata contexts, the end of a handshake, and the rules under which
//! one connection's requests are judged and answered.

use crate::export::{BlockSizes, ExportInfo, Features};

/// A metadata context that `BLOCK_STATUS` can report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// `base:allocation`: is a range a hole, does it read as zeroes.
    BaseAllocation,
}

impl Context {
    /// Every context that this crate knows.
    pub const ALL: [Context; 1] = [Context::BaseAllocation];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Context::BaseAllocation => "base:allocation",
        }
    }

    /// The id under which the server reports it; the protocol leaves the choice to the server.
    pub fn id(self) -> u32 {
        match self {
            Context::BaseAllocation => 1,
        }
    }
}

/// The set of metadata contexts that a client selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Contexts {
    base_allocation: bool,
}

impl Contexts {
    /// No context: `BLOCK_STATUS` is refused.
    pub const NONE: Contexts = Contexts { base_allocation: false };

    /// The set with `context` in it.
    #[must_use]
    pub fn with(self, context: Context) -> Self {
        match context {
            Context::BaseAllocation => Contexts { base_allocation: true },
        }
    }

    /// Whether `context` was selected.
    pub fn contains(self, context: Context) -> bool {
        match context {
            Context::BaseAllocation => self.base_allocation,
        }
    }

    /// The selected contexts, each once.
    pub fn iter(self) -> impl Iterator<Item = Context> {
        Context::ALL.into_iter().filter(move |context| self.contains(*context))
    }

    /// Whether nothing was selected.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }
}

/// How a server handshake ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Negotiated {
    /// The chosen export: an index into the exports that the handshake was given.
    pub export: usize,
    /// Structured replies were negotiated.
    pub structured: bool,
    /// The metadata contexts that were selected for this export.
    pub contexts: Contexts,
    /// The client asked for no padding after `EXPORT_NAME`. The handshake has acted on it already.
    pub no_zeroes: bool,
}

/// The rules of one connection in transmission. Cheap to copy; [`crate::validate`] judges requests by it
/// and its encoders shape the answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    size: u64,
    block: BlockSizes,
    features: Features,
    structured: bool,
    contexts: Contexts,
    draining: bool,
}

impl Session {
    /// The session that a handshake led to; `export` is the one that [`Negotiated::export`] names. A peer
    /// that skips the handshake (the Linux kernel does) gets `Negotiated::default()`: simple replies only.
    pub fn new(export: &ExportInfo, negotiated: &Negotiated) -> Self {
        Session {
            size: export.size(),
            block: export.block_sizes(),
            features: export.features(),
            structured: negotiated.structured,
            contexts: if negotiated.structured { negotiated.contexts } else { Contexts::NONE },
            draining: false,
        }
    }

    /// From now on every request is answered `ESHUTDOWN`, except a disconnect.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Block sizes of the export.
    pub fn block_sizes(&self) -> BlockSizes {
        self.block
    }

    /// What the export can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether reads are answered in structured replies.
    pub fn structured(&self) -> bool {
        self.structured
    }

    /// The metadata contexts that `BLOCK_STATUS` reports.
    pub fn contexts(&self) -> Contexts {
        self.contexts
    }

    /// Whether [`Session::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The [`crate::wire::transmission_flag`] bits of this session, as the handshake sent them; a kernel
    /// attach hands them to the kernel.
    pub fn transmission_flags(&self) -> u16 {
        self.features.transmission_flags(self.structured)
    }
}
