//! Ports of the guest's loopback at which the host listens.
//!
//! A connection that a program makes is told to the host by a number and waits
//! until the host takes it up, which is a call of its own. What waits is
//! bounded in number and in time; beyond that, programs wait in the kernel.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tombolo_guest_proto::v1::ListenEvent;
use tombolo_guest_proto::v1::listen_event::Event;
use tonic::Status;

use super::{ADDRESSES, Connection};
use crate::fault::{CallError, Cause, at};
use crate::log::log;

const OPERATION: &str = "listen";
/// Calls that listen at one time.
const LISTENERS_MAX: usize = 64;
/// Connections of one listener that wait to be taken up.
const WAITING_MAX: usize = 32;
/// How long the host may take to do that.
const WAITING_TIME: Duration = Duration::from_secs(10);
/// Free ports of one family that are tried until both have it.
const ATTEMPTS_MAX: usize = 16;
/// Before listening on after a failure that has no connection to blame.
const PAUSE: Duration = Duration::from_millis(100);

/// Everything that listens for the host.
#[derive(Debug)]
pub(super) struct Listeners {
    slots: Arc<Semaphore>,
    waiting: Arc<Waiting>,
    last: AtomicU64,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(LISTENERS_MAX)),
            waiting: Arc::default(),
            last: AtomicU64::new(0),
        }
    }
}

/// Connections that were accepted and not yet taken up, by number.
#[derive(Debug, Default)]
struct Waiting {
    connections: Mutex<HashMap<u64, Accepted>>,
    last: AtomicU64,
}

#[derive(Debug)]
struct Accepted {
    connection: Connection,
    /// Which listener accepted it.
    listener: u64,
    _expiry: Expiry,
    _turn: OwnedSemaphorePermit,
}

/// The task that ends a wait, which ends with it.
#[derive(Debug)]
struct Expiry(AbortHandle);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listeners {
    /// `slots` are those of connections, of which each that is accepted takes one.
    pub(super) async fn open(
        &self,
        port: u32,
        slots: Arc<Semaphore>,
    ) -> Result<impl Stream<Item = Result<ListenEvent, Status>> + Send + use<>, CallError> {
        let wrong = Cause::InvalidArgument("a port is at most 65535");
        let port = u16::try_from(port).map_err(|_wide| CallError::new(OPERATION, "", wrong))?;
        let full = |_full| CallError::errno(OPERATION, "", Errno::MFILE);
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(full)?;
        let (port, sockets) = bind(port).await?;
        let listener = Listener {
            id: self.last.fetch_add(1, Ordering::Relaxed),
            sockets,
            slots,
            turns: Arc::new(Semaphore::new(WAITING_MAX)),
            waiting: Arc::clone(&self.waiting),
            _slot: slot,
        };
        let told = |event| Ok(ListenEvent { event: Some(event) });
        let accepted = stream::unfold(listener, |listener| async move {
            let number = listener.next().await?;
            Some((number, listener))
        });
        let port = Event::Port(port.get().into());
        let events = stream::iter([port]).chain(accepted.map(Event::Accepted));
        Ok(events.map(told))
    }

    pub(super) fn take(&self, number: u64) -> Result<Connection, CallError> {
        let taken = self.waiting.connections.lock().remove(&number);
        let gone = || CallError::errno(OPERATION, "", Errno::NOTCONN);
        taken.map(|it| it.connection).ok_or_else(gone)
    }
}

/// One call's sockets.
#[derive(Debug)]
struct Listener {
    id: u64,
    sockets: Vec<TcpListener>,
    slots: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    waiting: Arc<Waiting>,
    _slot: OwnedSemaphorePermit,
}

impl Listener {
    /// The number of the next connection. Nothing when the agent ends.
    async fn next(&self) -> Option<u64> {
        loop {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
            let stream = self.accept().await;
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            match Connection::new(stream, slot) {
                Ok(connection) => return Some(self.keep(connection, turn)),
                Err(error) => log!("a connection was lost when it was accepted: {error}"),
            }
        }
    }

    async fn accept(&self) -> TcpStream {
        loop {
            let accepted = poll_fn(|context| {
                let mut polled = self.sockets.iter().map(|it| it.poll_accept(context));
                polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
            });
            match accepted.await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    log!("no connection was accepted: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn keep(&self, connection: Connection, turn: OwnedSemaphorePermit) -> u64 {
        let number = self.waiting.last.fetch_add(1, Ordering::Relaxed) + 1;
        let waiting = Arc::clone(&self.waiting);
        let expiry = tokio::spawn(async move {
            sleep(WAITING_TIME).await;
            waiting.connections.lock().remove(&number);
        });
        let accepted = Accepted {
            connection,
            listener: self.id,
            _expiry: Expiry(expiry.abort_handle()),
            _turn: turn,
        };
        self.waiting.connections.lock().insert(number, accepted);
        number
    }
}

/// Nobody will take up what waits.
impl Drop for Listener {
    fn drop(&mut self) {
        let mut connections = self.waiting.connections.lock();
        connections.retain(|_, accepted| accepted.listener != self.id);
    }
}

/// The same port of both families, or of the one that the guest has.
async fn bind(asked: u16) -> Result<(NonZero<u16>, Vec<TcpListener>), CallError> {
    let attempts = if asked == 0 { ATTEMPTS_MAX } else { 1 };
    for _ in 1..attempts {
        match bind_both(asked).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound.map_err(at(OPERATION, "")),
        }
    }
    let place = format!("localhost:{asked}");
    bind_both(asked).await.map_err(at(OPERATION, &place))
}

async fn bind_both(asked: u16) -> Result<(NonZero<u16>, Vec<TcpListener>), io::Error> {
    let [first, second] = ADDRESSES;
    let socket = TcpListener::bind(SocketAddr::new(first, asked)).await?;
    let port = socket.local_addr()?.port();
    let other = TcpListener::bind(SocketAddr::new(second, port)).await;
    let mut sockets = vec![socket];
    match other {
        Ok(other) => sockets.push(other),
        Err(error) if is_without_family(&error) => {}
        Err(error) => return Err(error),
    }
    let none = || io::Error::from(Errno::ADDRINUSE);
    Ok((NonZero::new(port).ok_or_else(none)?, sockets))
}

fn is_without_family(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}
