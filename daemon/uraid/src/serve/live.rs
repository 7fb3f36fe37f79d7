//! What a running daemon can be told anew (`reload`): clients are let in by the settings of the moment at
//! which they come, and keep them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nbd_rs::{ServerConfig, TlsPolicy};
use uraid_config::{Address, Config, Tls, TlsAt};
use uraid_shard::ConnectionLimits;

use super::peers::Allowed;
use super::tls::{self, Certificates};
use super::tuning;

/// The settings by which a client is let in.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Time for the handshake, that of TLS included.
    pub(super) handshake: Duration,
    /// Handshakes at once, at one address.
    pub(super) handshakes: usize,
    /// Connections of one peer at once; 0 for no limit.
    pub(super) per_peer: usize,
    /// How long a client may be silent.
    pub(super) idle: Option<Duration>,
    /// What a connection may have in flight.
    pub(super) connection: ConnectionLimits,
    /// Who may connect to unix sockets.
    pub(super) allowed: Allowed,
    /// With what TLS is done, if it is.
    pub(super) certificates: Option<Certificates>,
    tls: Tls,
    list: bool,
}

impl Settings {
    /// The settings of a configuration, with the files and accounts that it names.
    ///
    /// # Errors
    /// The first file or account that cannot be used.
    pub(super) fn of(config: &Config) -> Result<Self, String> {
        let limits = &config.limits;
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Settings {
            handshake: limits.handshake,
            handshakes: count(limits.handshakes),
            per_peer: count(limits.connections_per_peer),
            idle: (!limits.idle.is_zero()).then_some(limits.idle),
            connection: tuning::connection(config),
            allowed: Allowed::resolve(&config.access)?,
            // An expired certificate must not keep a disk away from whoever has it mounted.
            certificates: tls::load(&config.tls, config.device.is_some())
                .map_err(|error| error.to_string())?,
            tls: config.tls.clone(),
            list: config.access.list,
        })
    }

    /// What clients at this address are offered.
    pub(super) fn offer(&self, address: &Address) -> ServerConfig {
        let tls = match self.tls.at(address) {
            TlsAt::Off => TlsPolicy::Refused,
            TlsAt::Offered => TlsPolicy::Offered,
            TlsAt::Required => TlsPolicy::Required,
        };
        ServerConfig { list: self.list, tls }
    }

    /// What is doubtful about the files.
    pub(super) fn doubts(&self) -> &[String] {
        self.certificates.as_ref().map_or(&[], |certificates| &certificates.doubts)
    }

    /// Says what is doubtful.
    pub(super) fn warn(&self, addresses: &[Address]) {
        for doubt in self.doubts() {
            tracing::warn!("{doubt}");
        }
        if let Some(address) = self.tls.lets_in_strangers(addresses) {
            tracing::warn!(
                "{address}: clients need no certificate, so whoever can reach it can read and write the \
                 volume; give a `client_ca` in [tls]"
            );
        }
    }
}

/// The settings of the moment.
#[derive(Clone, Debug)]
pub(super) struct Live(Arc<Mutex<Arc<Settings>>>);

impl Live {
    /// These, until others come.
    pub(super) fn new(settings: Settings) -> Self {
        Live(Arc::new(Mutex::new(Arc::new(settings))))
    }

    /// Those of now.
    pub(super) fn now(&self) -> Arc<Settings> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Others from now on.
    pub(super) fn set(&self, settings: Settings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
