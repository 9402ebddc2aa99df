//! What the ingress is given: where names lead, and streams to programs.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncWrite};
use tombolo_ids::ExposureName;

/// Knows exposures and reaches the programs behind them. Clones are one.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A connection to a program.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// What a name leads to. Asked for each request.
    fn find(&self, name: &ExposureName) -> impl Future<Output = Found> + Send;

    /// Whether a token opens a private exposure. Takes the same time wherever the
    /// token is wrong.
    fn admits(&self, exposure: &Exposure, token: &str) -> bool;

    /// Connects to the program. May take as long as it likes: the ingress has a
    /// deadline of its own.
    fn connect(
        &self,
        exposure: &Exposure,
    ) -> impl Future<Output = Result<Self::Stream, ConnectError>> + Send;
}

/// What a name leads to.
#[derive(Clone, Debug)]
pub enum Found {
    Exposure(Exposure),
    /// The sandbox has ended.
    Stopped,
    /// The name was given out and leads to no port so far.
    NothingBound,
    Unknown,
    /// It cannot be told now.
    Unavailable,
}

/// One name and where it leads.
#[derive(Clone, Debug)]
pub struct Exposure {
    pub name: ExposureName,
    /// Whose limits it counts against: the sandbox.
    pub owner: String,
    pub target: Target,
    /// Only who has its token is let in.
    pub is_private: bool,
    /// Where its traffic is counted.
    pub meter: Arc<Meter>,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Port(NonZero<u16>),
    /// Whatever this process, or one below it, listens on.
    Process(i32),
}

/// As a person reads it: "port 8000", "process 12".
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(formatter, "port {port}"),
            Self::Process(pid) => write!(formatter, "process {pid}"),
        }
    }
}

/// No connection to a program.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("nothing listens there")]
    NothingListens,
    #[error("the process is gone")]
    NoProcess,
    #[error("the sandbox has as many connections as it takes")]
    TooMany,
    #[error("the sandbox did not connect in time")]
    TimedOut,
    #[error("the exposure changed meanwhile")]
    Changed,
    #[error("the sandbox cannot be reached")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Counts what passes, without locks. It only grows.
#[derive(Debug, Default)]
pub struct Meter {
    requests: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// What has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    /// Of bodies and upgraded connections, from clients.
    pub request_bytes: u64,
    /// The same to clients.
    pub response_bytes: u64,
}

impl Meter {
    /// All that has passed so far.
    pub fn read(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, way: Way, len: usize) {
        let count = match way {
            Way::In => &self.request_bytes,
            Way::Out => &self.response_bytes,
        };
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Which way bytes go, seen from the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}
