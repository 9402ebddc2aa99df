//! Reaches the agent of a VM: a unix socket that QEMU joins to the guest's
//! serial port, a preamble that finds the start of a conversation
//! ([`tombolo_guest_proto::channel`]), then HTTP/2.

use crate::short_path;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tombolo_guest_proto::channel::{MAGIC, NONCE_LEN, PREAMBLE_LEN, TAKEN, opening};
use tonic::transport::{Channel, Endpoint};

/// The socket's name in a VM's directory.
pub(crate) const AGENT_SOCKET: &str = "agent.sock";
/// Receive window of one stream: a reader that stalls holds at most this much.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Receive window of a connection; far above what its streams together hold,
/// so that one that stalls does not hold up the others.
pub const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// How long a guest that runs may take to answer a preamble, before another
/// connection is tried.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of an old conversation that may precede the answer.
const STALE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often a guest with calls under way is asked whether it is there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_mins(1);

/// A channel that uses the conversation `opened`, if there is one, and opens
/// another whenever it must.
#[must_use]
pub(crate) fn channel(vm_dir: &Path, opened: Option<UnixStream>) -> Channel {
    let vm_dir = vm_dir.to_owned();
    let opened = Arc::new(Mutex::new(opened));
    let connector = tower::service_fn(move |_| {
        let vm_dir = vm_dir.clone();
        let opened = opened.lock().take();
        async move {
            let stream = match opened {
                Some(stream) => stream,
                None => connect(&vm_dir).await?,
            };
            io::Result::Ok(hyper_util::rt::TokioIo::new(stream))
        }
    });
    // The authority is never resolved: the connector decides where it goes.
    Endpoint::from_static("http://agent.tombolo.invalid")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .connect_with_connector_lazy(connector)
}

/// Connects once, within [`PREAMBLE_TIMEOUT`].
pub(crate) async fn connect(vm_dir: &Path) -> io::Result<UnixStream> {
    match timeout(PREAMBLE_TIMEOUT, open(vm_dir, b"")).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)),
    }
}

/// Connects, however long the guest takes to open its side, and tells it the
/// introduction first.
pub(crate) async fn open(vm_dir: &Path, introduction: &[u8]) -> io::Result<UnixStream> {
    let mut stream = short_path::connect(vm_dir, AGENT_SOCKET).await?;
    let mut nonce = [0_u8; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let mut preamble = [0_u8; PREAMBLE_LEN];
    preamble[..MAGIC.len()].copy_from_slice(&MAGIC);
    preamble[MAGIC.len()..].copy_from_slice(&nonce);
    stream.write_all(&opening(nonce, introduction)).await?;
    skip_to(&mut stream, &preamble).await?;
    if stream.read_u8().await? == TAKEN {
        Ok(stream)
    } else {
        Err(io::Error::other("the guest cannot take its identity"))
    }
}

/// Reads up to and including `wanted`, byte by byte at the end so that nothing
/// after it is taken.
async fn skip_to(stream: &mut UnixStream, wanted: &[u8; PREAMBLE_LEN]) -> io::Result<()> {
    let mut window: Vec<u8> = Vec::with_capacity(PREAMBLE_LEN);
    for _ in 0..STALE_BYTES_MAX {
        // Never more than what the preamble still lacks can be taken safely.
        let missing = PREAMBLE_LEN - matching_tail(&window, wanted);
        let mut bytes = vec![0_u8; missing];
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        window.extend_from_slice(&bytes[..count]);
        if window.ends_with(wanted) {
            return Ok(());
        }
        let excess = window.len().saturating_sub(PREAMBLE_LEN);
        window.drain(..excess);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the agent's answer does not come",
    ))
}

/// How many bytes at the end of `window` could be the beginning of `wanted`.
fn matching_tail(window: &[u8], wanted: &[u8]) -> usize {
    (0..=window.len().min(wanted.len()))
        .rev()
        .find(|&length| window.ends_with(&wanted[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn skips_what_an_old_conversation_left_and_takes_nothing_after() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(AGENT_SOCKET)).unwrap();
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut opening = [0_u8; PREAMBLE_LEN + 4];
            stream.read_exact(&mut opening).await.unwrap();
            let stale = [&[0xff_u8; 100][..], &MAGIC, &[0; NONCE_LEN]].concat();
            stream.write_all(&stale).await.unwrap();
            stream.write_all(&opening[..PREAMBLE_LEN]).await.unwrap();
            stream.write_all(&[TAKEN]).await.unwrap();
            stream.write_all(b"after").await.unwrap();
        });
        let mut stream = connect(dir.path()).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "after");
        agent.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_guest_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join(AGENT_SOCKET)).unwrap();
        let error = connect(dir.path()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
