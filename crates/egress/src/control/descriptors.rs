//! Sockets that wait to be attached. A node hands them over on a connection of its own,
//! because gRPC carries no descriptors ([`tombolo_node_proto::handover`]).

use std::{collections::HashMap, io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    sync::Notify,
    time::{Instant, interval, sleep, timeout},
};
use tombolo_node_proto::handover::{self, ReceiveSocketsError, SlotSockets};

/// Sandboxes whose sockets wait at a time.
const WAITING_MAX: usize = 256;
/// How long they wait.
const WAITING_TIMEOUT: Duration = Duration::from_mins(1);
/// How often those are closed that waited longer.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How long is waited for sockets that are on their way.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accepting rests after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Nodes that connect at a time; there is one.
const BACKLOG: i32 = 4;

/// The sockets that wait, by sandbox.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    waiting: Mutex<HashMap<String, (SlotSockets<OwnedFd>, Instant)>>,
    arrived: Notify,
}

impl Descriptors {
    /// The sockets of a sandbox, once. Waits for a moment, because they travel beside the
    /// call that wants them.
    pub(crate) async fn take(&self, sandbox: &str) -> Option<SlotSockets<OwnedFd>> {
        let taken = async {
            loop {
                // Enlisted before looking, so that an arrival in between is not missed.
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some((sockets, _)) = self.waiting.lock().remove(sandbox) {
                    return sockets;
                }
                arrived.await;
            }
        };
        timeout(ARRIVAL_TIMEOUT, taken).await.ok()
    }

    /// Takes what comes, for as long as it is polled. Only who may open the socket's file
    /// can send anything. One node at a time: a new connection takes the place of the old.
    pub(crate) async fn serve(self: Arc<Self>, listener: UnixListener) {
        let mut connection = None;
        let mut sweep = interval(SWEEP_INTERVAL);
        loop {
            let accepted = tokio::select! {
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
                accepted = listener.accept() => accepted,
                () = self.receive_all(connection.as_ref()) => {
                    connection = None;
                    continue;
                }
            };
            match accepted {
                Ok((accepted, _)) => connection = Some(accepted),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the node that brings sockets");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn sweep(&self) {
        let is_fresh = |since: &Instant| since.elapsed() < WAITING_TIMEOUT;
        self.waiting.lock().retain(|_, (_, since)| is_fresh(since));
    }

    /// Receives until the connection ends; with none, never returns.
    async fn receive_all(&self, connection: Option<&UnixStream>) {
        let Some(connection) = connection else {
            return std::future::pending().await;
        };
        loop {
            let received =
                connection.async_io(Interest::READABLE, || match handover::receive(connection) {
                    Err(ReceiveSocketsError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                    received => Ok(received),
                });
            let received = match received.await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "cannot wait for sockets");
                    return;
                }
            };
            match received {
                Ok(Some(handover)) => self.keep(handover.sandbox.as_str(), handover.sockets),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "sockets of a sandbox did not arrive whole");
                    return;
                }
            }
        }
    }

    fn keep(&self, sandbox: &str, sockets: SlotSockets<OwnedFd>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            tracing::warn!(sandbox, "too many sandboxes wait to be attached");
            return;
        }
        waiting.insert(sandbox.to_owned(), (sockets, Instant::now()));
        drop(waiting);
        self.arrived.notify_waiters();
    }
}

/// Listens for messages with descriptors (`SOCK_SEQPACKET`) at a path that is free. The
/// library's types wait and accept alike for all unix sockets; nothing is read or written
/// by them.
pub(crate) fn open(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Sockets that nobody attaches are closed, whether others come or not.
    #[tokio::test(start_paused = true)]
    async fn sockets_that_wait_too_long_are_closed() {
        let directory = tempfile::tempdir().unwrap();
        let listener = open(&directory.path().join("descriptors")).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let descriptors = Arc::new(Descriptors::default());
        let socket = || OwnedFd::from(UdpSocket::bind(("127.0.0.1", 0)).unwrap());
        let sockets = SlotSockets {
            tcp4: socket(),
            tcp6: socket(),
            udp4: socket(),
            udp6: socket(),
        };
        descriptors.keep("one", sockets);
        let wait = timeout(
            WAITING_TIMEOUT / 2,
            Arc::clone(&descriptors).serve(listener),
        );
        assert!(wait.await.is_err());
        assert_eq!(descriptors.waiting.lock().len(), 1);
        let listener = open(&directory.path().join("again")).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let wait = timeout(
            WAITING_TIMEOUT / 2 + SWEEP_INTERVAL,
            Arc::clone(&descriptors).serve(listener),
        );
        assert!(wait.await.is_err());
        assert_eq!(descriptors.waiting.lock().len(), 0);
    }
}
