//! What the gateway is given: who may come in, and programs of sandboxes.

use std::fmt;
use std::num::NonZero;

use russh::keys::{Algorithm, HashAlg, PublicKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Knows who may come in. Clones are one.
pub trait Backend: Clone + Send + Sync + 'static {
    type Sandbox: Sandbox;

    /// Where a login leads; nothing when it is refused. Takes the same work for a name
    /// that is unknown as for one that is known.
    fn authenticate(&self, login: Login<'_>) -> impl Future<Output = Option<Self::Sandbox>> + Send;
}

/// An attempt to come in.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// As the client sent it: any text.
    pub user_name: &'a str,
    /// A key that the client has, or says that it has while it asks whether to prove it.
    /// It is proved before anybody is let in by it.
    pub key: Option<&'a Key>,
}

/// A public key of a client.
#[derive(Clone)]
pub struct Key(PublicKey);

/// Comments do not tell keys apart.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.key_data() == other.0.key_data()
    }
}

impl Eq for Key {}

/// The text is not a public key that the gateway takes.
#[derive(Debug, thiserror::Error)]
pub enum ParseKeyError {
    #[error("this is no public key; give one line such as those of ~/.ssh/id_ed25519.pub")]
    NoKey(#[from] russh::keys::ssh_key::Error),
    #[error(
        "the gateway takes keys of Ed25519 and ECDSA, and those on security keys, and no {algorithm}; make one with ssh-keygen -t ed25519"
    )]
    Unsupported { algorithm: String },
}

impl Key {
    pub(crate) fn new(key: &PublicKey) -> Self {
        Self(key.clone())
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// What follows the key on its line: free text.
    pub fn comment(&self) -> String {
        self.0.comment().to_string()
    }

    /// The line without its comment; nothing when the key cannot be written as one, and
    /// then it is no key that was registered.
    pub fn to_line(&self) -> Option<String> {
        let mut bare = self.0.clone();
        bare.set_comment("");
        let line = bare.to_openssh().ok()?;
        Some(line.trim().to_owned())
    }
}

/// A line of an `.pub` file.
impl std::str::FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(line: &str) -> Result<Self, ParseKeyError> {
        let key = PublicKey::from_openssh(line.trim())?;
        match key.algorithm() {
            Algorithm::Ed25519
            | Algorithm::Ecdsa { .. }
            | Algorithm::SkEd25519
            | Algorithm::SkEcdsaSha2NistP256 => Ok(Self(key)),
            // What cannot be proved lets nobody in.
            other => Err(ParseKeyError::Unsupported {
                algorithm: other.as_str().to_owned(),
            }),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({})", self.fingerprint())
    }
}

/// One sandbox that somebody was let into. Clones are one.
pub trait Sandbox: Clone + Send + Sync + 'static {
    type Process: Process;
    /// A connection to a program, or of one.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Tells sandboxes apart.
    fn id(&self) -> String;

    /// Answers when nobody may be in any more: it has ended, or the login was revoked.
    fn closed(&self) -> impl Future<Output = ()> + Send;

    fn spawn(
        &self,
        launch: Launch,
    ) -> impl Future<Output = Result<Started<Self::Process>, SpawnError>> + Send;

    /// Connects to a program that listens on the sandbox's loopback.
    fn connect(
        &self,
        port: NonZero<u16>,
    ) -> impl Future<Output = Result<Self::Stream, ConnectError>> + Send;

    /// Connects to a program that listens on a Unix socket, with the rights of those who
    /// work in the sandbox. Relative paths start at their home.
    fn connect_local(
        &self,
        path: &str,
    ) -> impl Future<Output = Result<Self::Stream, ConnectError>> + Send;

    /// Listens on the sandbox's loopback until the answer is dropped. Port 0 takes a free
    /// one.
    fn listen(
        &self,
        port: u16,
    ) -> impl Future<Output = Result<Forwarded<Self::Stream>, ListenError>> + Send;
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub program: Program,
    /// Variables that the client asked for, besides those of the sandbox.
    pub environment: Vec<(String, String)>,
    /// With a terminal, all three streams are it.
    pub terminal: Option<Terminal>,
}

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The user's shell, as at a login.
    Shell,
    /// A line for the user's shell.
    Command(String),
    /// The server of RFC 4254's subsystem `sftp`.
    Sftp,
}

/// A terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    pub columns: u32,
    pub rows: u32,
}

/// A program that was started.
pub struct Started<P> {
    pub process: P,
    /// Shutting it down closes the program's standard input.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
}

impl<P: fmt::Debug> fmt::Debug for Started<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Started")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// A program that runs. What fails because it has ended is no error.
pub trait Process: Send + Sync + 'static {
    fn resize(&self, terminal: Terminal) -> impl Future<Output = ()> + Send;

    /// `signal` is a number of Linux.
    fn signal(&self, signal: i32) -> impl Future<Output = ()> + Send;

    /// Answers when it has ended; nothing when that cannot be told, as of a sandbox that
    /// is gone.
    fn wait(&self) -> impl Future<Output = Option<Exit>> + Send;
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// The signal that ended it, as a number of Linux.
    pub signal: Option<i32>,
}

/// Connections that programs of a sandbox make to a forwarded port.
#[derive(Debug)]
pub struct Forwarded<S> {
    /// Where it listens.
    pub port: NonZero<u16>,
    /// Ends when it listens no more.
    pub streams: mpsc::Receiver<S>,
}

/// No program was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("the sandbox has no {0}; a new sandbox of the current image does")]
    Missing(&'static str),
    #[error("the sandbox could not start it: {0}")]
    Failed(#[source] Cause),
}

/// No connection to a program.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("nothing listens there")]
    NothingListens,
    #[error("the sandbox has as many connections as it takes")]
    TooMany,
    #[error("the sandbox cannot be reached")]
    Away(#[source] Cause),
}

/// A port is not forwarded.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot listen there: {0}")]
pub struct ListenError(#[source] pub Cause);
