//! Who may come in at the unix sockets for clients, and what a client may ask before it has named an
//! export.

use std::fmt;
use std::str::FromStr;

use crate::reader::{Reader, Section};

/// The keys above the first section that say who may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Whether clients may ask for the list of exports.
    pub list: bool,
    /// Permission bits of unix sockets for clients.
    pub socket_mode: u32,
    /// Their group; `None` stands for `disk` if the daemon is root and there is such a group.
    pub socket_group: Option<Account>,
    /// The only users that may connect to a unix socket, beside those of `allow_groups`; both empty for
    /// whomever the permissions let in.
    pub allow_users: Vec<Account>,
    /// The only groups whose members may, likewise.
    pub allow_groups: Vec<Account>,
}

/// A user or a group, by its name or by its number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Account {
    /// As /etc/passwd, /etc/group or another database of the system calls it.
    Name(String),
    /// Its number.
    Id(u32),
}

/// Why a text is not an [`Account`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a user or group is a name, as in \"disk\", or a number, as in \"6\"")]
pub struct AccountError;

const SOCKET_MODE_DEFAULT: u32 = 0o660;
/// Longest name that databases of users carry.
const NAME_BYTES_MAX: usize = 256;

impl Default for Access {
    fn default() -> Self {
        Access {
            list: true,
            socket_mode: SOCKET_MODE_DEFAULT,
            socket_group: None,
            allow_users: Vec::new(),
            allow_groups: Vec::new(),
        }
    }
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Account::Id).map_err(|_| AccountError);
        }
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | ',' | '/');
        if text.len() > NAME_BYTES_MAX || text.starts_with('-') || text.contains(odd) {
            return Err(AccountError);
        }
        Ok(Account::Name(text.to_owned()))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Account::Name(name) => f.write_str(name),
            Account::Id(id) => id.fmt(f),
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>, top: Section<'_>) -> Access {
    let account = |text: &str| text.parse::<Account>().map_err(|error| error.to_string());
    let mut accounts = |key| {
        let found = reader.texts(top, key, account).unwrap_or_default();
        found.into_iter().map(|(account, _)| account).collect()
    };
    let (allow_users, allow_groups) = (accounts("allow_users"), accounts("allow_groups"));
    Access {
        list: reader.flag(top, "list", true),
        socket_mode: reader.text(top, "socket_mode", mode).unwrap_or(SOCKET_MODE_DEFAULT),
        socket_group: reader.text(top, "socket_group", account),
        allow_users,
        allow_groups,
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("it must be permission bits in octal, as in \"0660\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_names_or_numbers() {
        assert_eq!("6".parse(), Ok(Account::Id(6)));
        assert_eq!("libvirt-qemu".parse(), Ok(Account::Name("libvirt-qemu".to_owned())));
        for text in ["", "-x", "a b", "a:b", "a\0", "4294967296"] {
            assert_eq!(text.parse::<Account>(), Err(AccountError), "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("600"), Ok(0o600));
        for text in ["", "0o660", "0888", "1777", "-1", "rw-rw----"] {
            assert!(mode(text).is_err(), "{text:?}");
        }
    }
}
