//! Where the export listens: `unix:/run/uraid/data.sock`, `tcp:127.0.0.1:10809`, `tcp:[::1]:10809`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// One address to listen on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// A unix socket; the path is absolute and short enough for `sockaddr_un`.
    Unix(PathBuf),
    /// A TCP address and port.
    Tcp(SocketAddr),
}

/// Why a text is not an [`Address`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// It starts with neither `unix:` nor `tcp:`.
    #[error("an address is unix:/PATH or tcp:IP:PORT")]
    UnknownScheme,
    /// A socket path that is not absolute.
    #[error("the path of a unix socket must be absolute, as in unix:/run/uraid/data.sock")]
    RelativePath,
    /// A socket path that `sockaddr_un` cannot hold.
    #[error("the path of a unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes, this one has {0}")]
    PathTooLong(usize),
    /// A NUL or another control character in the path.
    #[error("the path of a unix socket must not hold control characters")]
    BadPath,
    /// Not an IP address and port.
    #[error(
        "a TCP address is tcp:IP:PORT, as in tcp:127.0.0.1:10809 or tcp:[::1]:10809 (host names are not looked up)"
    )]
    BadTcp,
}

/// `sun_path` has 108 bytes, one of which is the final NUL.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        }
    }

    /// The NBD URI under which clients find `export` here
    /// (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>).
    pub fn uri(&self, export: &str) -> String {
        self.uri_of("nbd", export)
    }

    /// The same for clients that have to use TLS.
    pub fn tls_uri(&self, export: &str) -> String {
        self.uri_of("nbds", export)
    }

    fn uri_of(&self, scheme: &str, export: &str) -> String {
        let export = percent_encode(export, b"-._~:");
        match self {
            Address::Unix(path) => {
                let socket = percent_encode(&path.to_string_lossy(), b"-._~/:");
                format!("{scheme}+unix:///{export}?socket={socket}")
            }
            Address::Tcp(address) => format!("{scheme}://{address}/{export}"),
        }
    }
}

fn percent_encode(text: &str, plain: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Checks that `path` can name a unix socket.
pub(crate) fn check_socket_path(path: &str) -> Result<PathBuf, AddressError> {
    if !path.starts_with('/') {
        return Err(AddressError::RelativePath);
    }
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(AddressError::PathTooLong(path.len()));
    }
    if path.chars().any(char::is_control) {
        return Err(AddressError::BadPath);
    }
    Ok(PathBuf::from(path))
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return check_socket_path(path).map(Address::Unix);
        }
        let rest = text.strip_prefix("tcp:").ok_or(AddressError::UnknownScheme)?;
        if let Some(port) = rest.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| AddressError::BadTcp)?;
            return Ok(Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        rest.parse().map(Address::Tcp).map_err(|_| AddressError::BadTcp)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_the_same_text() {
        for text in ["unix:/run/uraid/data.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:10809", "tcp:0.0.0.0:1"] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("tcp:localhost:7".parse::<Address>().unwrap().to_string(), "tcp:127.0.0.1:7");
    }

    #[test]
    fn refuses_with_the_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, error) in [
            ("", AddressError::UnknownScheme),
            ("/run/x.sock", AddressError::UnknownScheme),
            ("unix:x.sock", AddressError::RelativePath),
            ("unix:/a\0b", AddressError::BadPath),
            (long.as_str(), AddressError::PathTooLong(108)),
            ("tcp:10809", AddressError::BadTcp),
            ("tcp:example.org:10809", AddressError::BadTcp),
            ("tcp:127.0.0.1:65536", AddressError::BadTcp),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn knows_what_leaves_the_machine() {
        for (text, local) in [
            ("unix:/a", true),
            ("tcp:127.9.9.9:1", true),
            ("tcp:[::1]:1", true),
            ("tcp:[::ffff:127.0.0.1]:1", true),
            ("tcp:0.0.0.0:1", false),
            ("tcp:[::]:1", false),
            ("tcp:192.0.2.1:1", false),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn uris_escape_what_a_uri_would_misread() {
        let uri = |text: &str| text.parse::<Address>().unwrap().uri("a b?");
        assert_eq!(uri("unix:/run/x&y.sock"), "nbd+unix:///a%20b%3F?socket=/run/x%26y.sock");
        assert_eq!(uri("tcp:[::1]:10809"), "nbd://[::1]:10809/a%20b%3F");
        let uri = |text: &str| text.parse::<Address>().unwrap().tls_uri("v");
        assert_eq!(uri("unix:/s"), "nbds+unix:///v?socket=/s");
        assert_eq!(uri("tcp:[::1]:1"), "nbds://[::1]:1/v");
    }
}
