//! Whole files in one answer.
//!
//! A small file is read before anything is answered. A larger one is sent
//! while it is read, as fragments of one message; for a file that is not a
//! regular one nobody can say when more of it will come, and no other answer
//! can be sent meanwhile, so that is gathered first, up to a bound.

use tokio::time::timeout;
use tombolo_api::rpc::{ErrorObject, ReadParams};
use tombolo_guest_proto::v1;
use tonic::{Status, Streaming};

use super::call::Call;
use super::dispatch::too_large;
use super::fault::CallError;
use super::guest_call::{Repeat, Retry};
use super::limits::stalled;
use super::outgoing::PeerGone;
use super::reply::{Reply, ReplyWriter, StringEncoder};
use crate::guest::Dialect;

/// What kind of file a mode is of, and a regular one.
const KIND_MASK: u32 = 0o170_000;
const KIND_FILE: u32 = 0o100_000;

pub(super) async fn read_file(call: &mut Call) -> Result<Reply, CallError> {
    read(call, StringEncoder::base64).await
}

pub(super) async fn read_text_file(call: &mut Call) -> Result<Reply, CallError> {
    read(call, StringEncoder::text).await
}

async fn read(call: &mut Call, encoder: fn() -> StringEncoder) -> Result<Reply, CallError> {
    let ReadParams { path, .. } = call.params()?;
    let mut retry = Retry::new(Repeat::IfLost);
    loop {
        match attempt(call, &path, encoder()).await {
            Ok(reply) => return Ok(reply),
            // What was sent cannot be read again: the file may be another now.
            Err(ReadError::Guest(status)) if call.fragments.is_some() => return Err(status.into()),
            Err(ReadError::Guest(status)) => retry.pause(status).await?,
            Err(ReadError::Call(error)) => return Err(error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the guest did not give the file")]
    Guest(#[from] Status),
    #[error("the file cannot be told")]
    Call(#[from] CallError),
}

impl From<PeerGone> for ReadError {
    fn from(gone: PeerGone) -> Self {
        Self::Call(ErrorObject::new("ConnectionAborted", gone.to_string()).into())
    }
}

/// A file as it is read and written down.
struct Reading {
    chunks: Streaming<v1::DataChunk>,
    writer: ReplyWriter,
    encoder: StringEncoder,
}

impl Reading {
    /// Writes down what comes until so much is written. Answers whether that
    /// is all of the file.
    async fn up_to(&mut self, len: usize) -> Result<bool, ReadError> {
        while self.writer.len() <= len {
            let Some(chunk) = self.chunks.message().await? else {
                return Ok(true);
            };
            self.encoder.push(&mut self.writer, &chunk.data)?;
        }
        Ok(false)
    }

    fn finish(mut self) -> Result<Reply, ReadError> {
        self.encoder.finish(&mut self.writer)?;
        self.writer.push_json("\"");
        Ok(self.writer.finish())
    }
}

async fn attempt(call: &mut Call, path: &str, encoder: StringEncoder) -> Result<Reply, ReadError> {
    let mut agent = call.connection.agent.client();
    let request = v1::PathRequest {
        path: path.to_owned(),
    };
    let mut reading = Reading {
        chunks: agent.read_file(request).await?.into_inner(),
        writer: call.reply_writer(),
        encoder,
    };
    reading.writer.push_json("\"");
    let len_max = call.connection.reply_len_max();
    let held_max = call.connection.limits.reply_held_max.min(len_max);
    if reading.up_to(held_max).await? {
        return reading.finish();
    }
    if reading.writer.len() > len_max {
        return Err(too_large(len_max).into());
    }
    // The Python SDK's bound is small, and its reader of JSON is not ours to
    // depend on.
    let may_stream = call.connection.dialect != Dialect::Python;
    match regular_len(call, path).await {
        Some(len) if may_stream && reading.encoder.least_len(len) > len_max as u64 => {
            Err(too_large(len_max).into())
        }
        Some(_) if may_stream => send_on(call, reading, len_max).await,
        _ => gather(call, reading, len_max).await,
    }
}

/// The length of a regular file that has one; those of `/proc` have none.
async fn regular_len(call: &Call, path: &str) -> Option<u64> {
    let request = v1::StatRequest {
        path: path.to_owned(),
        follow_symlinks: true,
    };
    let stat = call.connection.agent.client().stat(request).await.ok()?;
    let info = stat.get_ref();
    (info.mode & KIND_MASK == KIND_FILE && info.size > 0).then_some(info.size)
}

/// Makes the whole answer before it is sent.
async fn gather(call: &Call, mut reading: Reading, len_max: usize) -> Result<Reply, ReadError> {
    let len_max = len_max.min(call.connection.limits.gathered_len_max);
    let permit = call.connection.large_reply(len_max).await;
    let patience = call.connection.limits.patience();
    loop {
        let len = reading.writer.len();
        if len > len_max {
            return Err(too_large(len_max).into());
        }
        if patience.wait(reading.up_to(len)).await?? {
            break;
        }
    }
    let mut reply = reading.finish()?;
    reply.permit = Some(permit);
    Ok(reply)
}

/// Sends what is written, and goes on so until the file ends. Answers the rest.
async fn send_on(
    call: &mut Call,
    mut reading: Reading,
    len_max: usize,
) -> Result<Reply, ReadError> {
    let limits = &call.connection.limits;
    let _permit = call.connection.large_reply(limits.reply_held_max).await;
    let stall_max = limits.reply_stall_max;
    let fragments = call.connection.outgoing.fragments().await?;
    let fragments = call.fragments.insert(fragments);
    let mut len = 0;
    loop {
        let part = reading.writer.take();
        len += part.len();
        if len > len_max {
            return Err(too_large(len_max).into());
        }
        fragments.send(part).await?;
        // As much as comes in one chunk is a fragment.
        let more = timeout(stall_max, reading.up_to(0)).await;
        if more.map_err(|_elapsed| stalled())?? {
            return reading.finish();
        }
    }
}
