//! Connections between the host and programs of the guest, each a call whose
//! two streams are the two directions of a connection over the guest's own
//! loopback or a Unix socket. Programs that listen are connected to; those that connect to where
//! the host listens ([`listen`]) are taken up.
//!
//! A direction ends on its own: the end of the request is a FIN to the program,
//! the end of the answer is the program's. What neither side reads waits in the
//! kernel and in the call's window, so nothing here grows.

mod listen;
mod local;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::dial_chunk::Part;
use tombolo_guest_proto::v1::dial_target::To;
use tombolo_guest_proto::v1::{DataChunk, DialChunk, DialTarget, ListenEvent};
use tombolo_sys::guest::identity::Identity;
use tonic::{Status, Streaming};

use crate::deno::listeners::Search;
use crate::fault::{CallError, Cause, at};
use crate::files::Files;
use crate::log::log;

use listen::Listeners;

const OPERATION: &str = "connect";
/// Connections of the host at one time.
const CONNECTIONS_MAX: usize = 1024;
/// Room for one answer of a program, as far as it is there.
const READ_LEN: usize = 16 * 1024;
/// Where programs listen, the likelier address first.
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Whom a connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Port(NonZero<u16>),
    Process(i32),
    /// A connection that waits, by its number.
    Accepted(u64),
    /// A Unix socket.
    Local(PathBuf),
}

impl Target {
    /// The target that the first message of a call names.
    pub(crate) fn named(first: Option<&Part>, files: &Files) -> Result<Self, CallError> {
        let wrong = |what| CallError::new(OPERATION, "", Cause::InvalidArgument(what));
        let Some(Part::Target(DialTarget { to: Some(to) })) = first else {
            return Err(wrong("the first message names no target"));
        };
        match to {
            To::Port(port) => u16::try_from(*port)
                .ok()
                .and_then(NonZero::new)
                .map(Self::Port)
                .ok_or_else(|| wrong("a port is from 1 to 65535")),
            To::Pid(pid) => Ok(Self::Process(*pid)),
            To::Accepted(number) => Ok(Self::Accepted(*number)),
            To::Path(path) => Ok(Self::Local(files.resolve(OPERATION, path)?)),
        }
    }
}

/// Bounds how many connections there are.
#[derive(Debug)]
pub(crate) struct Connections {
    slots: Arc<Semaphore>,
    listeners: Listeners,
    /// Who connects to Unix sockets.
    identity: Arc<Identity>,
}

impl Connections {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity: Arc::new(identity),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            listeners: Listeners::default(),
        }
    }

    /// Connects to whoever listens, or takes up a connection that waits.
    pub(crate) async fn open(&self, target: Target) -> Result<Connection, Status> {
        if let Target::Accepted(number) = target {
            return Ok(self.listeners.take(number)?);
        }
        let full = |_full| CallError::errno(OPERATION, "", Errno::MFILE);
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(full)?;
        let stream = match target {
            Target::Port(port) => dial(&ADDRESSES.map(|ip| SocketAddr::new(ip, port.get()))).await,
            Target::Process(pid) => dial(&[listener_of(pid).await?]).await,
            Target::Accepted(_) => Err(CallError::errno(OPERATION, "", Errno::NOTCONN)),
            Target::Local(path) => {
                let stream = ProgramStream::Local(local::dial(&self.identity, &path).await?);
                return Ok(Connection { stream, slot });
            }
        }?;
        Ok(Connection::new(stream, slot).map_err(at(OPERATION, ""))?)
    }

    /// Listens for programs until the answer is dropped. Port 0 takes a free one.
    pub(crate) async fn listen(
        &self,
        port: u32,
    ) -> Result<impl Stream<Item = Result<ListenEvent, Status>> + Send + use<>, CallError> {
        self.listeners.open(port, Arc::clone(&self.slots)).await
    }
}

/// A connection that counts against the bound while it is there.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: ProgramStream,
    slot: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum ProgramStream {
    Tcp(TcpStream),
    Local(UnixStream),
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

impl ProgramStream {
    /// Dropping the second is a FIN to the program.
    fn into_split(self) -> (Reader, Writer) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Self::Local(stream) => {
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
        }
    }
}

impl Connection {
    fn new(stream: TcpStream, slot: OwnedSemaphorePermit) -> Result<Self, std::io::Error> {
        // What a program writes is to be seen when it writes it.
        stream.set_nodelay(true)?;
        let stream = ProgramStream::Tcp(stream);
        Ok(Self { stream, slot })
    }
}

/// The first of the addresses where somebody listens. What is told of a failure
/// is what the first, which every guest has, failed with.
async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, CallError> {
    let mut failed = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                failed.get_or_insert(CallError::new(OPERATION, &address.to_string(), error));
            }
        }
    }
    Err(failed.unwrap_or_else(|| CallError::errno(OPERATION, "", Errno::CONNREFUSED)))
}

/// Where a process, or one below it, listens.
async fn listener_of(pid: i32) -> Result<SocketAddr, Status> {
    let missing = |errno| CallError::errno(OPERATION, "", errno);
    if pid <= 0
        || !fs_err::tokio::try_exists(format!("/proc/{pid}"))
            .await
            .unwrap_or(false)
    {
        return Err(missing(Errno::SRCH).into());
    }
    let found = Search::default().look(pid, Instant::now()).await;
    Ok(found.ok_or_else(|| missing(Errno::CONNREFUSED))?)
}

/// Joins a connection with the two streams of its call. The answer ends with
/// what the program sends.
pub(crate) fn join(
    connection: Connection,
    chunks: Streaming<DialChunk>,
) -> impl Stream<Item = Result<DataChunk, Status>> + Send + 'static {
    let Connection { stream, slot } = connection;
    let (reader, writer) = stream.into_split();
    let slot = Arc::new(slot);
    let feeding = tokio::spawn(feed(writer, chunks, Arc::clone(&slot)));
    let incoming = Incoming {
        reader,
        buffer: BytesMut::new(),
        feeding: Some(feeding.abort_handle()),
        _slot: slot,
    };
    stream::try_unfold(incoming, |mut incoming| async move {
        let chunk = incoming.next().await.map_err(at(OPERATION, ""));
        Ok(chunk?.map(|data| (DataChunk { data }, incoming)))
    })
}

/// What a program sends.
struct Incoming {
    reader: Reader,
    buffer: BytesMut,
    /// The other direction, until the program has said all.
    feeding: Option<AbortHandle>,
    _slot: Arc<OwnedSemaphorePermit>,
}

impl Incoming {
    async fn next(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        self.buffer.reserve(READ_LEN);
        let mut room = (&mut self.reader).take(CHUNK_LEN_MAX as u64);
        if room.read_buf(&mut self.buffer).await? == 0 {
            // It may go on listening after it said all.
            self.feeding = None;
            return Ok(None);
        }
        Ok(Some(self.buffer.split().freeze()))
    }
}

impl Drop for Incoming {
    /// Nobody hears the program any more: nobody speaks to it either.
    fn drop(&mut self) {
        if let Some(feeding) = &self.feeding {
            feeding.abort();
        }
    }
}

/// Tells a program what the host sends, at the pace it reads.
async fn feed(
    mut writer: Writer,
    mut chunks: Streaming<DialChunk>,
    slot: Arc<OwnedSemaphorePermit>,
) {
    let fed = async {
        while let Some(chunk) = chunks.message().await? {
            if let Some(Part::Data(data)) = chunk.part {
                writer.write_all(&data).await?;
            }
        }
        writer.shutdown().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = fed.await {
        // Told to the host, if it is there, by the end of the other direction.
        log!("a connection to a program broke off: {error}");
    }
    drop(slot);
}
