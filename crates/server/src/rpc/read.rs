//! Whole files in one answer.

use tombolo_api::rpc::ReadParams;
use tombolo_guest_proto::v1;
use tonic::{Status, Streaming};

use super::call::Call;
use super::connection::LARGE_REPLY_LEN;
use super::dispatch::too_large;
use super::fault::CallError;
use super::guest_call::{Repeat, Retry};
use super::reply::{Reply, StringEncoder};

pub(super) async fn read_file(call: &Call) -> Result<Reply, CallError> {
    read(call, StringEncoder::base64).await
}

pub(super) async fn read_text_file(call: &Call) -> Result<Reply, CallError> {
    read(call, StringEncoder::text).await
}

async fn read(call: &Call, encoder: fn() -> StringEncoder) -> Result<Reply, CallError> {
    let ReadParams { path, .. } = call.params()?;
    let mut retry = Retry::new(Repeat::IfLost);
    loop {
        match attempt(call, &path, encoder()).await {
            Ok(reply) => return Ok(reply),
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

async fn attempt(call: &Call, path: &str, mut encoder: StringEncoder) -> Result<Reply, ReadError> {
    let len_max = call.connection.reply_len_max();
    let mut agent = call.connection.agent.client();
    let request = v1::PathRequest {
        path: path.to_owned(),
    };
    let mut chunks: Streaming<v1::DataChunk> = agent.read_file(request).await?.into_inner();
    let mut writer = call.reply_writer();
    let mut permit = None;
    writer.push_json("\"");
    while let Some(chunk) = chunks.message().await? {
        encoder.push(&mut writer, &chunk.data)?;
        if writer.len() > len_max {
            return Err(too_large(len_max).into());
        }
        if permit.is_none() && writer.len() > LARGE_REPLY_LEN {
            permit = call.connection.large_reply().await;
            writer.reserve(base64_len(call, path).await.min(len_max));
        }
    }
    encoder.finish(&mut writer)?;
    writer.push_json("\"");
    let mut reply = writer.finish();
    reply.permit = permit;
    Ok(reply)
}

/// The length of a file as base64, as far as it can be told: growing a large
/// answer step by step would take twice its memory.
async fn base64_len(call: &Call, path: &str) -> usize {
    let request = v1::StatRequest {
        path: path.to_owned(),
        follow_symlinks: true,
    };
    match call.connection.agent.client().stat(request).await {
        Ok(info) => usize::try_from(info.get_ref().size / 3 * 4).unwrap_or(0),
        Err(_) => 0,
    }
}
