//! One connection from its handshake to its end.
//!
//! Before the server closes a connection it answers every call and ends every
//! stream, because the SDKs would wait for them for ever:
//!
//! ```text
//! serving ── client closed, or lost ────────────────────────────┐
//!    │                                                          │
//!    └─ sandbox ends, message too large ─ answer calls          │
//!                                           │                   │
//!                                         end streams           │
//!                                           │                   │
//!                                         close frame ─ echo ─ clean up
//! ```

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tungstenite::protocol::frame::coding::CloseCode;

use super::connection::Connection;
use super::outgoing::outgoing;
use super::reader::{ReadEnd, read};
use super::socket::{CloseReason, Socket};
use super::{RpcSession, SessionEnd, handles};

/// How long no message must come before a connection is closed.
const QUIET_MOMENT: Duration = Duration::from_millis(20);
/// How long a client may take to read its last answers.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to echo the close frame.
const CLOSE_ECHO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that cannot be read is kept, so that the client sees
/// the close frame before it sees the connection break.
const UNREAD_LINGER: Duration = Duration::from_secs(1);

/// Serves one connection. Returns when it is over and all it held is given
/// back.
pub(crate) async fn serve(mut socket: Socket, session: RpcSession) -> SessionEnd {
    let (outgoing, writer) = outgoing(socket.writer);
    let connection = Arc::new(Connection::new(session, outgoing));
    let peer_gone = connection.end.peer_gone.clone();
    let mut writing = tokio::spawn(async move {
        if let Err(error) = writer.run().await {
            tracing::debug!(%error, "writing to a client failed");
            peer_gone.cancel();
        }
    });
    let reading = read(&connection, &mut socket.reader);
    tokio::pin!(reading);
    let read_end = tokio::select! {
        biased;
        () = connection.end.sandbox.cancelled() => None,
        end = &mut reading => Some(end),
    };
    let end = match read_end {
        None => {
            // Calls that still come are answered too, so reading goes on.
            close_and_read_on(&connection, reading).await;
            SessionEnd::SandboxEnded
        }
        Some(end) => {
            close_unread(&connection, end).await;
            end.into()
        }
    };
    if end == SessionEnd::ClientClosed && timeout(CLOSE_ECHO_TIMEOUT, &mut writing).await.is_err() {
        tracing::debug!(sandbox = %connection.sandbox, "a client does not read the close frame");
    }
    clean_up(&connection, end).await;
    writing.abort();
    end
}

/// Ends the connection for a sandbox that ends.
async fn close_and_read_on(connection: &Connection, reading: impl Future<Output = ReadEnd>) {
    tokio::pin!(reading);
    let said = tokio::select! {
        _ = &mut reading => return,
        said = last_words(connection, CloseCode::Away, "The sandbox has ended".into()) => said,
    };
    if said && timeout(CLOSE_ECHO_TIMEOUT, reading).await.is_err() {
        tracing::debug!(sandbox = %connection.sandbox, "a client did not echo the close frame");
    }
}

/// Ends a connection that cannot be read any further.
async fn close_unread(connection: &Connection, end: ReadEnd) {
    let (code, reason): (_, Cow<'static, str>) = match end {
        ReadEnd::ClientClosed | ReadEnd::Lost => return,
        ReadEnd::TooLarge => (
            CloseCode::Size,
            format!(
                "A message may have at most {} bytes, and more than {} only for the content of a file",
                connection.limits.frame_len_max, connection.limits.message_held_max
            )
            .into(),
        ),
        ReadEnd::Malformed => (
            CloseCode::Protocol,
            "The message is not valid WebSocket".into(),
        ),
    };
    if last_words(connection, code, reason).await {
        sleep(UNREAD_LINGER).await;
    }
}

/// Answers all calls, ends all streams and says goodbye. Answers whether the
/// client took all of it.
async fn last_words(connection: &Connection, code: CloseCode, words: Cow<'static, str>) -> bool {
    let end = &connection.end;
    let reason = CloseReason { code, words };
    let saying = async {
        end.calls.cancel();
        answer_all(connection).await;
        end.streams.cancel();
        end.stream_tasks.close();
        end.stream_tasks.wait().await;
        connection.outgoing.close(reason).await
    };
    if let Ok(sent) = timeout(LAST_WORDS_TIMEOUT, saying).await {
        return sent.is_ok();
    }
    tracing::debug!(sandbox = %connection.sandbox, "a client did not read its last answers");
    false
}

/// Waits until all calls are answered and no more have come for a moment. A
/// call that is under way when the connection is closed would never be
/// answered, so the moment should be longer than the way from the client.
async fn answer_all(connection: &Connection) {
    let calls = &connection.end.call_tasks;
    calls.close();
    loop {
        let read_before = connection.messages_read.load(Ordering::Relaxed);
        sleep(QUIET_MOMENT).await;
        calls.wait().await;
        if connection.messages_read.load(Ordering::Relaxed) == read_before {
            return;
        }
    }
}

/// Stops all tasks and gives back what the connection held in the guest.
async fn clean_up(connection: &Arc<Connection>, end: SessionEnd) {
    connection.end.peer_gone.cancel();
    connection.end.call_tasks.close();
    connection.end.call_tasks.wait().await;
    connection.end.stream_tasks.close();
    connection.end.stream_tasks.wait().await;
    if end != SessionEnd::SandboxEnded {
        handles::close_all(connection).await;
    }
}
