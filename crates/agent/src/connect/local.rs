//! Unix sockets of the guest, connected to by the sandbox's user.
//!
//! The kernel asks who connects when it opens the path, and tells the program that
//! listens (`SO_PEERCRED`, unix(7)). The agent is root and would be let in everywhere, so
//! a thread becomes the user for each, and ends.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tombolo_sys::guest::identity::{Identity, assume_to_connect};

use super::OPERATION;
use crate::fault::{CallError, at};

pub(super) async fn dial(identity: &Arc<Identity>, path: &Path) -> Result<UnixStream, CallError> {
    let shown = path.to_string_lossy();
    let stream = connect_by_thread(identity, path).await;
    let stream = stream.map_err(at(OPERATION, &shown))?;
    UnixStream::from_std(stream).map_err(at(OPERATION, &shown))
}

async fn connect_by_thread(
    identity: &Arc<Identity>,
    path: &Path,
) -> io::Result<std::os::unix::net::UnixStream> {
    let (answer, answered) = oneshot::channel();
    let (identity, path) = (Arc::clone(identity), path.to_owned());
    let thread = std::thread::Builder::new().name("connect".to_owned());
    thread.spawn(move || {
        // Nobody may wait any more: then it is closed.
        drop(answer.send(connect(&identity, &path)));
    })?;
    let unanswered = |_gone| io::Error::from(Errno::IO);
    answered.await.map_err(unanswered)?
}

fn connect(identity: &Identity, path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    assume_to_connect(identity)?;
    let address = SocketAddrUnix::new(path)?;
    // A program that does not accept is not waited for.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}
