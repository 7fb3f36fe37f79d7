//! Systemd's journal, by its native protocol: one datagram an entry, fields by name, so that an event is
//! found by its message id, its array or its member (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! It is used when standard error is the journal already, which the service manager says in JOURNAL_STREAM
//! (systemd.exec(5)); everything else that the daemon logs goes there as lines. An entry that the journal
//! does not take in time becomes such a line.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::fstat;
use tokio::net::UnixDatagram;

use super::kinds::message_id;
use super::{Event, Subject};

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Another place, for tests.
const SOCKET_VARIABLE: &str = "URAID_JOURNAL_SOCKET";
/// How long the journal may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the longest value. An entry far larger than all of ours would not fit a datagram.
const VALUE_BYTES_MAX: usize = 8192;

/// The journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// The fields that are the same in every entry.
    common: Vec<u8>,
}

impl Journal {
    /// The journal, if standard error leads there.
    pub(super) fn if_stderr_is_one(subject: &Subject) -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        if !is_stream(&stream, std::io::stderr()) {
            return None;
        }
        let path = std::env::var_os(SOCKET_VARIABLE).map_or_else(|| SOCKET.into(), PathBuf::from);
        Self::at(&path, subject)
    }

    fn at(path: &Path, subject: &Subject) -> Option<Self> {
        let socket = match UnixDatagram::unbound() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::info!("events are logged as lines only: {error}");
                return None;
            }
        };
        let mut common = Vec::new();
        field(&mut common, "SYSLOG_IDENTIFIER", "uraid");
        field(&mut common, "URAID_ARRAY", &subject.array);
        field(&mut common, "URAID_ARRAY_UUID", &subject.uuid);
        Some(Journal { socket, path: path.to_owned(), common })
    }

    /// Whether the journal took the event.
    pub(super) async fn say(&self, event: &Event) -> bool {
        let entry = self.entry(event);
        // By its path each time: a journal that was started anew is found again.
        match tokio::time::timeout(PATIENCE, self.socket.send_to(&entry, &self.path)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::debug!("the journal did not take an event: {error}");
                false
            }
            Err(_) => false,
        }
    }

    fn entry(&self, event: &Event) -> Vec<u8> {
        let mut entry = self.common.clone();
        field(&mut entry, "MESSAGE", &event.text);
        field(&mut entry, "MESSAGE_ID", message_id(event.kind));
        field(&mut entry, "PRIORITY", &event.severity.priority().to_string());
        field(&mut entry, "URAID_EVENT", event.kind.word());
        for (name, value) in event.fields() {
            field(&mut entry, &format!("URAID_{name}"), &value);
        }
        entry
    }
}

/// Whether `JOURNAL_STREAM`, which is `DEVICE:INODE`, names this file.
fn is_stream(stream: &str, file: impl AsFd) -> bool {
    let named = stream
        .split_once(':')
        .and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    match (named, fstat(file)) {
        (Some(named), Ok(stat)) => named == (stat.st_dev, stat.st_ino),
        _ => false,
    }
}

/// `NAME=value`, or, if the value has more than one line, its name, its length and itself.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    let end = (0..=value.len().min(VALUE_BYTES_MAX)).rev().find(|at| value.is_char_boundary(*at));
    let value = value.get(..end.unwrap_or(0)).unwrap_or_default();
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use uraid_config::EventKind;

    use super::*;

    fn subject() -> Subject {
        Subject { array: "tank".into(), uuid: "0:1:2:3".into() }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_event_becomes_an_entry_with_its_fields() {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("socket");
            let reader = UnixDatagram::bind(&path).unwrap();
            let journal = Journal::at(&path, &subject()).unwrap();
            let event = Event {
                member: Some("/dev/x\ny".into()),
                role: Some(3),
                ..Event::new(EventKind::MemberFailed, "gone")
            };
            assert!(journal.say(&event).await);
            let mut entry = [0; 4096];
            let n = reader.recv(&mut entry).await.unwrap();
            let mut expected = b"SYSLOG_IDENTIFIER=uraid\nURAID_ARRAY=tank\nURAID_ARRAY_UUID=0:1:2:3\n\
                MESSAGE=gone\nMESSAGE_ID=885d24cd63714e1daf9e0eb80d96202e\nPRIORITY=3\n\
                URAID_EVENT=member-failed\nURAID_MEMBER\n"
                .to_vec();
            expected.extend(8_u64.to_le_bytes());
            expected.extend(b"/dev/x\ny\nURAID_ROLE=3\n");
            assert_eq!(String::from_utf8_lossy(&entry[..n]), String::from_utf8_lossy(&expected));
            drop(reader);
            std::fs::remove_file(&path).unwrap();
            assert!(!journal.say(&event).await, "nobody is there to take it");
        });
    }

    #[test]
    fn only_the_file_that_is_named_is_the_journal() {
        let file = tempfile::tempfile().unwrap();
        let meta = file.metadata().unwrap();
        assert!(is_stream(&format!("{}:{}", meta.dev(), meta.ino()), &file));
        for other in [format!("{}:{}", meta.dev(), meta.ino() + 1), "".into(), "1".into(), "a:b".into()] {
            assert!(!is_stream(&other, &file), "{other}");
        }
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let mut entry = Vec::new();
        field(&mut entry, "A", &"ä".repeat(VALUE_BYTES_MAX));
        assert_eq!(entry.len(), 2 + VALUE_BYTES_MAX + 1);
        entry.clear();
        field(&mut entry, "B", &format!("x{}", "ä".repeat(VALUE_BYTES_MAX)));
        assert_eq!(entry.len(), 2 + VALUE_BYTES_MAX - 1 + 1);
    }
}
