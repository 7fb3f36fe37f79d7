//! `[tls]`: the certificate by which clients know the server, the authority by which it knows them, and
//! where TLS is used.
//!
//! What the files hold is not looked at here; that each key has the other keys that it needs is.

use std::path::{Path, PathBuf};

use crate::address::Address;
use crate::reader::{Reader, Section};
use crate::schema::tidy_path;

/// `[tls]`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// The server's certificate and the intermediate ones, PEM. Set exactly if `key` is.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM, not encrypted.
    pub key: Option<PathBuf>,
    /// The authorities of which a client must have a certificate, PEM; `None` if clients need none.
    pub client_ca: Option<PathBuf>,
    /// The only names that a client's certificate may have; empty for any. Needs `client_ca`.
    pub clients: Vec<String>,
    /// Where TLS is used.
    pub mode: TlsMode,
}

/// Where TLS is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// With a certificate it is required where other machines can connect, and offered elsewhere.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// At every address, to clients that want it.
    Offered,
    /// At every address, from every client.
    Required,
}

/// What TLS is at one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsAt {
    /// It is not to be had.
    Off,
    /// Clients may use it.
    Offered,
    /// Clients must use it.
    Required,
}

/// The words of `[tls] mode`.
const MODES: &[(&str, TlsMode)] = &[
    ("auto", TlsMode::Auto),
    ("off", TlsMode::Off),
    ("offered", TlsMode::Offered),
    ("required", TlsMode::Required),
];
const CLIENT_BYTES_MAX: usize = 256;

impl TlsMode {
    /// The word that selects it in the file.
    pub fn word(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == self).map_or("auto", |(word, _)| word)
    }

    /// The mode of this word.
    ///
    /// # Errors
    /// The words that there are.
    pub fn from_word(word: &str) -> Result<Self, String> {
        let found = MODES.iter().find(|(name, _)| *name == word).map(|(_, mode)| *mode);
        let names = || MODES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("it must be one of {}", names()))
    }
}

impl Tls {
    /// What TLS is at this address.
    pub fn at(&self, address: &Address) -> TlsAt {
        match self.mode {
            _ if self.certificate.is_none() => TlsAt::Off,
            TlsMode::Off => TlsAt::Off,
            TlsMode::Offered => TlsAt::Offered,
            TlsMode::Required => TlsAt::Required,
            TlsMode::Auto if address.is_local() => TlsAt::Offered,
            TlsMode::Auto => TlsAt::Required,
        }
    }

    /// The first of these addresses that other machines can reach, if TLS is spoken there and clients need no
    /// certificate for it.
    pub fn lets_in_strangers<'a>(&self, addresses: &'a [Address]) -> Option<&'a Address> {
        let open = |address: &&Address| !address.is_local() && self.at(address) != TlsAt::Off;
        addresses.iter().find(open).filter(|_| self.client_ca.is_none())
    }

    /// What is missing to what is there: the key at fault, what is wrong and what to do.
    pub fn contradiction(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let is_on = matches!(self.mode, TlsMode::Offered | TlsMode::Required);
        match (&self.certificate, &self.key) {
            (Some(_), None) => {
                Some(("certificate", "a certificate without its private key", "give the `key`, too"))
            }
            (None, Some(_)) => {
                Some(("key", "a private key without its certificate", "give the `certificate`, too"))
            }
            (None, None) if is_on => {
                Some(("mode", "TLS without a certificate", "give `certificate` and `key`"))
            }
            (None, None) if self.client_ca.is_some() => {
                Some(("client_ca", "TLS without a certificate of the server", "give `certificate` and `key`"))
            }
            _ if !self.clients.is_empty() && self.client_ca.is_none() => Some((
                "clients",
                "names of clients that nobody has to prove",
                "give the `client_ca` that their certificates are from",
            )),
            _ => None,
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>, tls: Section<'_>, base: &Path) -> Tls {
    let path = |text: &str| {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("it must be the path of a PEM file".to_owned());
        }
        Ok(tidy_path(&base.join(text)))
    };
    let client = |text: &str| {
        if text.is_empty() || text.len() > CLIENT_BYTES_MAX || text.chars().any(char::is_control) {
            return Err("it must be a name as certificates have it, as in \"host.example.org\"".to_owned());
        }
        Ok(text.to_owned())
    };
    let read = Tls {
        certificate: reader.text(tls, "certificate", path),
        key: reader.text(tls, "key", path),
        client_ca: reader.text(tls, "client_ca", path),
        clients: reader
            .texts(tls, "clients", client)
            .unwrap_or_default()
            .into_iter()
            .map(|(name, _)| name)
            .collect(),
        mode: reader.word(tls, "mode", TlsMode::Auto, MODES),
    };
    // A key that is there but wrong was told already.
    let seems = |key: &str, value: bool| tls.has(key) == value;
    let all_read = seems("certificate", read.certificate.is_some())
        && seems("key", read.key.is_some())
        && seems("client_ca", read.client_ca.is_some());
    if let Some((key, wrong, help)) = read.contradiction().filter(|_| all_read) {
        reader.problem(Reader::span(tls, key), format!("`{key}` in [tls]: {wrong}"), help);
    }
    read
}
