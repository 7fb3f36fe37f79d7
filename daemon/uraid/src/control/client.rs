//! Asks a daemon. One connection a request; everything has a time limit, so a daemon that hangs does not
//! hang its operator.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Answer, ControlError, LINE_BYTES_MAX, Outcome, Reply, Request, Status, VERSION};
use crate::failure::Failure;

/// How long a daemon may take to say how it is, or to take an order.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to finish what is in flight and write the superblocks.
const PATIENCE_STOP: Duration = Duration::from_secs(300);
/// How long it may take to compare every stripe of a large array while it is used.
const PATIENCE_SCRUB: Duration = Duration::from_secs(365 * 86_400);

/// Talks to the daemon behind one control socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    patience: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon answers at {}: {source}; is the array being served? (`systemctl start uraid@NAME`, or `uraid serve`)", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The daemon did not answer in time.
    #[error("the daemon at {} did not answer within {} seconds; it may be stuck on a member", path.display(), seconds)]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the daemon closed the connection without an answer: {0}")]
    Broken(io::Error),
    /// What came back is not the protocol.
    #[error("the answer cannot be understood ({0}); are the daemon and this command of the same version?")]
    Nonsense(String),
    /// The daemon said no.
    #[error("{0}")]
    Refused(#[from] ControlError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::operating(error)
    }
}

impl Client {
    /// For the daemon behind this socket; nothing is connected yet.
    pub fn new(path: PathBuf) -> Self {
        Client { path, patience: None }
    }

    /// With another time limit than the usual 30 seconds (300 for `stop`).
    pub fn with_patience(self, patience: Duration) -> Self {
        Client { patience: Some(patience), ..self }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state of the array.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        match block_on(self.ask(&Request::Status))? {
            Answer::Status(status) => Ok(*status),
            Answer::Message(text) => Err(ClientError::Nonsense(format!("not a status but {text:?}"))),
        }
    }

    /// Orders something; gives what the daemon says about it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order(&self, request: &Request) -> Result<String, ClientError> {
        match block_on(self.ask(request))? {
            Answer::Message(text) => Ok(text),
            Answer::Status(_) => Err(ClientError::Nonsense("a status was not asked for".to_owned())),
        }
    }

    /// Sends a request and waits for its reply, within the time limit.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        let usual = match request {
            Request::Stop { .. } | Request::HandOver => PATIENCE_STOP,
            Request::Scrub { wait: true, .. } => PATIENCE_SCRUB,
            Request::Status | Request::Fail { .. } | Request::Add { .. } | Request::Scrub { .. } => PATIENCE,
        };
        let patience = self.patience.unwrap_or(usual);
        match tokio::time::timeout(patience, self.converse(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { path: self.path.clone(), seconds: patience.as_secs() }),
        }
    }

    async fn converse(&self, request: &Request) -> Result<Answer, ClientError> {
        let line = request.to_line().map_err(|error| ClientError::Nonsense(error.to_string()))?;
        let connect = |source| ClientError::Connect { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).await.map_err(connect)?;
        stream.write_all(line.as_bytes()).await.map_err(ClientError::Broken)?;
        let mut reply = Vec::new();
        let limit = LINE_BYTES_MAX as u64;
        let mut reader = BufReader::new(stream).take(limit);
        reader.read_until(b'\n', &mut reply).await.map_err(ClientError::Broken)?;
        if reply.is_empty() {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let reply: Reply =
            serde_json::from_slice(&reply).map_err(|error| ClientError::Nonsense(error.to_string()))?;
        match reply.outcome {
            _ if reply.version != VERSION => {
                Err(ClientError::Nonsense(format!("it is of version {}, not {VERSION}", reply.version)))
            }
            Outcome::Ok(answer) => Ok(answer),
            Outcome::Error(error) => Err(error.into()),
        }
    }
}

/// Runs a conversation on a runtime of its own.
fn block_on<T>(conversation: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ClientError::Broken)?.block_on(conversation)
}
