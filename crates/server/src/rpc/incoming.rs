//! Puts messages together from the pieces in which they come.
//!
//! A message of ordinary length is gathered. Of a longer one the content, which
//! is what makes it long, goes on to where it belongs as it comes, and is not
//! held: see [`super::long`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tombolo_api::rpc::ErrorObject;

use super::budget::Permit;
use super::connection::Connection;
use super::frame::COPY_LEN_MAX;
use super::inbound::{Advice, InboundStream};
use super::long::{Destination, LongError, LongMessage, NotBase64};
use super::outbound::cancel_message;
use crate::guest::Dialect;

/// A message that has come whole.
#[derive(Debug)]
pub(super) struct Whole {
    /// All of it, or if it was long, all but its content.
    pub(super) frame: Bytes,
    /// The content of a long message, for the call that it makes.
    pub(super) content: Option<Result<InboundStream, NotBase64>>,
    /// Counts a large message until its call ends.
    pub(super) permit: Option<Permit>,
}

/// Why a message cannot be taken, and so nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum IncomingError {
    #[error("a text message is not UTF-8")]
    NotUtf8,
    #[error("a message is too long")]
    TooLong,
    #[error("nobody is there any more")]
    Ended,
}

/// The message under way.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    gathered: BytesMut,
    permit: Option<Permit>,
    long: Option<Box<Long>>,
}

#[derive(Debug)]
struct Long {
    message: LongMessage,
    /// Where the content of a call waits.
    content: Option<InboundStream>,
    /// Not JSON, which is told when all has come.
    is_broken: bool,
}

impl Incoming {
    /// Takes the next piece. Answers the message if it is whole.
    pub(super) async fn take(
        &mut self,
        connection: &Arc<Connection>,
        data: Bytes,
        is_text: bool,
        is_last: bool,
    ) -> Result<Option<Whole>, IncomingError> {
        let len = self.gathered.len() + data.len();
        if self.long.is_none() && len <= connection.limits.message_held_max {
            if len > COPY_LEN_MAX && self.permit.is_none() {
                self.permit = Some(hold(connection).await?);
            }
            if !is_last {
                self.gathered.extend_from_slice(&data);
                return Ok(None);
            }
            return self.whole(data, is_text).map(Some);
        }
        let before = std::mem::take(&mut self.gathered).freeze();
        let mut long = match self.long.take() {
            Some(long) => long,
            // What is left of it is as small as what is not counted.
            None => Box::new(Long::default()),
        };
        self.permit = None;
        for piece in [before, data] {
            // So that what is decoded at once is bounded too.
            for part in piece.chunks(COPY_LEN_MAX) {
                long.take(connection, part).await?;
            }
        }
        if is_last {
            return long.finish(connection).await.map(Some);
        }
        self.long = Some(long);
        Ok(None)
    }

    fn whole(&mut self, last: Bytes, is_text: bool) -> Result<Whole, IncomingError> {
        let frame = if self.gathered.is_empty() {
            last
        } else {
            self.gathered.extend_from_slice(&last);
            std::mem::take(&mut self.gathered).freeze()
        };
        if is_text && std::str::from_utf8(&frame).is_err() {
            return Err(IncomingError::NotUtf8);
        }
        Ok(Whole {
            frame,
            content: None,
            permit: self.permit.take(),
        })
    }
}

impl Default for Long {
    fn default() -> Self {
        Self {
            message: LongMessage::new(COPY_LEN_MAX),
            content: None,
            is_broken: false,
        }
    }
}

impl Long {
    async fn take(
        &mut self,
        connection: &Arc<Connection>,
        piece: &[u8],
    ) -> Result<(), IncomingError> {
        if self.is_broken {
            return Ok(());
        }
        match self.message.push(piece) {
            Ok(content) => self.pass_on(connection, content).await,
            Err(error) => self.fail(connection, error),
        }
    }

    /// Passes content on, and waits while too much waits for its readers.
    async fn pass_on(
        &mut self,
        connection: &Arc<Connection>,
        content: Bytes,
    ) -> Result<(), IncomingError> {
        if content.is_empty() {
            return Ok(());
        }
        match self.message.destination() {
            None => {}
            Some(Destination::Stream(stream)) => deliver(connection, stream, content).await,
            Some(Destination::Call) => {
                let new = || connection.inbound.content();
                let id = self.content.get_or_insert_with(new).id();
                // Nothing but this message knows the stream.
                let _advice = connection.inbound.push(id, content).await;
                room(connection).await;
            }
        }
        Ok(())
    }

    fn fail(&mut self, connection: &Connection, error: LongError) -> Result<(), IncomingError> {
        self.is_broken = true;
        if let Some(Destination::Stream(stream)) = self.message.destination() {
            fail_stream(connection, stream);
        }
        match error {
            LongError::NotJson => Ok(()),
            LongError::NotUtf8 => Err(IncomingError::NotUtf8),
            LongError::TooLong => Err(IncomingError::TooLong),
        }
    }

    async fn finish(mut self, connection: &Arc<Connection>) -> Result<Whole, IncomingError> {
        let destination = self.message.destination();
        let message = std::mem::replace(&mut self.message, LongMessage::new(0));
        let finished = if self.is_broken {
            Err(LongError::NotJson)
        } else {
            message.finish()
        };
        let (last, frame) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                self.fail(connection, error)?;
                return Ok(Whole {
                    // Not JSON either, and so answered as what came would be.
                    frame: Bytes::from_static(b"{"),
                    content: None,
                    permit: None,
                });
            }
        };
        Ok(Whole {
            frame,
            content: self.end_content(connection, destination, last).await,
            permit: None,
        })
    }

    /// Passes on the last of the content. Answers it if it is a call's.
    async fn end_content(
        &mut self,
        connection: &Arc<Connection>,
        destination: Option<Destination>,
        last: Result<Bytes, NotBase64>,
    ) -> Option<Result<InboundStream, NotBase64>> {
        match (destination?, last) {
            (Destination::Stream(stream), Ok(last)) => deliver(connection, stream, last).await,
            (Destination::Stream(stream), Err(_)) => fail_stream(connection, stream),
            (Destination::Call, Err(wrong)) => return Some(Err(wrong)),
            (Destination::Call, Ok(last)) => {
                let new = || connection.inbound.content();
                let content = self.content.take().unwrap_or_else(new);
                let _advice = connection.inbound.push(content.id(), last).await;
                connection.inbound.finish(content.id(), Ok(()));
                return Some(Ok(content));
            }
        }
        None
    }
}

/// Adds data to a client stream, and waits while too much waits for readers.
pub(super) async fn deliver(connection: &Connection, stream: u64, data: Bytes) {
    let advice = connection.inbound.push(stream, data).await;
    advise(connection, stream, advice);
    room(connection).await;
}

/// Tells the client to cancel a stream that nobody will read. The Python SDK
/// does not know the message.
pub(super) fn advise(connection: &Connection, stream: u64, advice: Advice) {
    if advice == Advice::Cancel && connection.dialect != Dialect::Python {
        connection.outgoing.hint(cancel_message(stream));
    }
}

async fn room(connection: &Connection) {
    tokio::select! {
        () = connection.inbound.room() => {}
        () = connection.end.streams.cancelled() => {}
        () = connection.end.peer_gone.cancelled() => {}
    }
}

fn fail_stream(connection: &Connection, stream: u64) {
    let error = ErrorObject::new("InvalidData", "the data of a stream is not base64");
    connection.inbound.finish(stream, Err(Box::new(error)));
}

/// Counts a large message, and waits while too much is held by messages before
/// it: of this connection, and of all. The calls that hold them have all they
/// need, so they end.
async fn hold(connection: &Connection) -> Result<Permit, IncomingError> {
    let bytes = connection.limits.message_held_max;
    let shared = connection.budget.messages();
    tokio::select! {
        permit = Permit::hold(&connection.messages, shared, bytes) => Ok(permit),
        () = connection.end.peer_gone.cancelled() => Err(IncomingError::Ended),
    }
}
