//! What a shard tells while it runs, to whoever listens: the log, if nobody does.

use std::path::PathBuf;

use tracing::Level;
use uraid_core::Role;

use crate::status::{AlertRecord, NoticeRecord};

/// Something that an operator wants to know, told when it happens.
#[derive(Clone, Debug)]
pub enum News {
    /// Of the array.
    Notice {
        /// What.
        record: NoticeRecord,
        /// Roles without a member in sync, now.
        missing: u16,
        /// Spares that were given a role since the last notice, with it.
        promoted: Vec<(PathBuf, Role)>,
    },
    /// Of the engine.
    Alert(AlertRecord),
    /// A device was added.
    Added(PathBuf),
    /// A client was turned away.
    Refused {
        /// Who.
        peer: String,
        /// Why.
        why: String,
    },
}

/// Whom a shard tells its news, instead of the log. Called on the shard's thread: it must not block.
pub type Listener = Box<dyn FnMut(News) + Send>;

impl News {
    /// How grave it is.
    pub fn level(&self) -> Level {
        match self {
            News::Notice { record, .. } => record.level,
            News::Alert(record) => record.level,
            News::Added(_) => Level::INFO,
            News::Refused { .. } => Level::WARN,
        }
    }

    /// The same in words.
    pub fn text(&self) -> String {
        match self {
            News::Notice { record, .. } => record.text.clone(),
            News::Alert(record) => record.text.clone(),
            News::Added(path) => format!("{} was added", path.display()),
            News::Refused { peer, why } => format!("{peer} was refused: {why}"),
        }
    }
}

/// Tells the listener, or logs.
pub(crate) struct Herald {
    listener: Option<Listener>,
}

impl Herald {
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self { listener }
    }

    pub(crate) fn tell(&mut self, volume: &str, news: News) {
        if let Some(listener) = &mut self.listener {
            return listener(news);
        }
        let text = news.text();
        match news.level() {
            Level::ERROR => tracing::error!(volume, "{text}"),
            Level::WARN => tracing::warn!(volume, "{text}"),
            _ => tracing::info!(volume, "{text}"),
        }
    }
}
