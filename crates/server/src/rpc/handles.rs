//! Open files. Each belongs to the connection that opened it.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use tokio::time::timeout;
use tombolo_api::rpc::{
    FileHandle, HandleLockParams, HandleParams, HandleReadParams, HandleReadResult,
    HandleSeekParams, HandleSeekResult, HandleTruncateParams, HandleUtimeParams, HandleWriteParams,
    HandleWriteResult, OpenOptions, OpenParams, PathParams,
};
use tombolo_guest_proto::{CHUNK_LEN_MAX, v1};

use super::call::Call;
use super::connection::Connection;
use super::fault::{self, CallError};
use super::files::file_info;
use super::frame::BASE64;
use super::guest_call::{Repeat, guest_call};
use super::handle_table::HandleRefused;
use super::long::NotBase64;
use super::params;
use super::reply::Reply;
use super::times;
use crate::guest::Dialect;

/// The most bytes of one `fileRead`; clients ask again for the rest. With all
/// that surrounds it the guest's answer fits the window of its stream, so it
/// comes without a word from this side: one that must wait for more window in
/// its middle was seen to wait until the channel's next ping, 20 seconds.
const READ_LEN_MAX: u32 = 192 * 1024;
/// How long closing what a connection left open may take.
const CLOSE_ALL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What is flushed to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    Everything,
    Data,
}

pub(super) async fn open(call: &Call) -> Result<Reply, CallError> {
    let OpenParams { path, options } = call.params()?;
    let options = options.unwrap_or_default();
    open_with(call, path, &options).await
}

pub(super) async fn create(call: &Call) -> Result<Reply, CallError> {
    let PathParams { path } = call.params()?;
    let options = OpenOptions {
        write: Some(true),
        truncate: Some(true),
        create: Some(true),
        ..OpenOptions::default()
    };
    open_with(call, path, &options).await
}

async fn open_with(call: &Call, path: String, options: &OpenOptions) -> Result<Reply, CallError> {
    let request = v1::OpenRequest {
        path,
        read: options.read.unwrap_or(true),
        write: options.write.unwrap_or(false),
        append: options.append.unwrap_or(false),
        truncate: options.truncate.unwrap_or(false),
        create: options.create.unwrap_or(false),
        create_new: options.create_new.unwrap_or(false),
        mode: options.mode,
    };
    // Once asked for, a file is either entered into the table or closed again,
    // even when the call is cut off meanwhile. So this runs on by itself.
    let connection = Arc::clone(&call.connection);
    let opened = tokio::spawn(async move { open_and_enter(&connection, request).await });
    let file_handle_id = match opened.await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(fault::sandbox_ended().into()),
    };
    call.ok(&FileHandle { file_handle_id })
}

async fn open_and_enter(
    connection: &Connection,
    request: v1::OpenRequest,
) -> Result<u64, CallError> {
    let opening = guest_call(
        &connection.agent,
        Repeat::IfUnsent,
        request,
        |mut agent, request| async move { agent.open(request).await },
    );
    let handle = tokio::select! {
        reply = opening => reply?.handle,
        () = connection.end.sandbox.cancelled() => return Err(fault::sandbox_ended().into()),
    };
    let refused = match connection.handles.insert(handle) {
        Ok(()) => return Ok(handle),
        Err(refused) => refused,
    };
    close_in_guest(connection, handle).await;
    Err(match refused {
        HandleRefused::Closed => fault::sandbox_ended(),
        HandleRefused::TooMany => {
            tombolo_api::rpc::ErrorObject::new("Busy", refused.to_string()).with_code("EMFILE")
        }
    }
    .into())
}

pub(super) async fn read(call: &Call) -> Result<Reply, CallError> {
    let params: HandleReadParams = call.params()?;
    let handle = known(call, params.file_handle_id)?;
    let request = v1::HandleReadRequest {
        handle,
        length: u32::try_from(params.length)
            .unwrap_or(READ_LEN_MAX)
            .min(READ_LEN_MAX),
    };
    let read = call
        .guest(request, |mut agent, request| async move {
            agent.handle_read(request).await
        })
        .await?;
    let is_end = read.end_of_file && read.data.is_empty() && params.length > 0;
    let data = match call.connection.dialect {
        // The Python SDK cannot take the null that means the end.
        Dialect::JavaScript | Dialect::Native if is_end => None,
        _ => Some(BASE64.encode(&read.data)),
    };
    call.ok(&HandleReadResult { data })
}

pub(super) async fn write(call: &mut Call) -> Result<Reply, CallError> {
    let not_base64 = || params::invalid(&["data"], "base64", "string");
    let content = call
        .take_content()
        .map_err(|_not_base64: NotBase64| not_base64())?;
    let params: HandleWriteParams<'_> = call.params()?;
    let handle = known(call, params.file_handle_id)?;
    let mut bytes_written = 0;
    let Some(mut content) = content else {
        let data = BASE64.decode(params.data.as_ref());
        let data = data.map_err(|_invalid| not_base64())?;
        write_bytes(call, handle, data.into(), &mut bytes_written).await?;
        return call.ok(&HandleWriteResult { bytes_written });
    };
    while let Some(data) = content.next().await {
        // What was written before is told; the next call meets the error.
        match data {
            Err(_) if bytes_written > 0 => break,
            data => {
                if write_bytes(call, handle, data?, &mut bytes_written).await? == Taken::Short {
                    break;
                }
            }
        }
    }
    call.ok(&HandleWriteResult { bytes_written })
}

/// Whether a file took all that was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    All,
    Short,
}

/// Writes bytes, and adds to `bytes_written` how many the file took.
async fn write_bytes(
    call: &Call,
    handle: u64,
    mut rest: Bytes,
    bytes_written: &mut u64,
) -> Result<Taken, CallError> {
    loop {
        let chunk = rest.split_to(rest.len().min(CHUNK_LEN_MAX));
        let chunk_len = chunk.len() as u64;
        let request = v1::HandleWriteRequest {
            handle,
            data: chunk,
        };
        let outcome = call
            .guest(request, |mut agent, request| async move {
                agent.handle_write(request).await
            })
            .await;
        match outcome {
            Ok(reply) => {
                *bytes_written += reply.written.min(chunk_len);
                if reply.written < chunk_len {
                    return Ok(Taken::Short);
                }
                if rest.is_empty() {
                    return Ok(Taken::All);
                }
            }
            // What was written before is told; the next call meets the error.
            Err(_) if *bytes_written > 0 => return Ok(Taken::Short),
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn seek(call: &Call) -> Result<Reply, CallError> {
    let params: HandleSeekParams = call.params()?;
    let handle = known(call, params.file_handle_id)?;
    if params.whence > 2 {
        return Err(params::invalid(&["whence"], "0, 1 or 2", "number"));
    }
    let request = v1::HandleSeekRequest {
        handle,
        offset: params.offset.0,
        whence: params.whence,
    };
    let reply = call
        .guest(request, |mut agent, request| async move {
            agent.handle_seek(request).await
        })
        .await?;
    call.ok(&HandleSeekResult {
        position: reply.position,
    })
}

pub(super) async fn truncate(call: &Call) -> Result<Reply, CallError> {
    let params: HandleTruncateParams = call.params()?;
    let request = v1::HandleTruncateRequest {
        handle: known(call, params.file_handle_id)?,
        length: params.len.or(params.size).unwrap_or(0),
    };
    call.guest(request, |mut agent, request| async move {
        agent.handle_truncate(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn stat(call: &Call) -> Result<Reply, CallError> {
    let request = handle_request(call)?;
    let info = call
        .guest_read(request, |mut agent, request| async move {
            agent.handle_stat(request).await
        })
        .await?;
    call.ok(&file_info(&info))
}

pub(super) async fn sync(call: &Call, what: Sync) -> Result<Reply, CallError> {
    let params: HandleParams = call.params()?;
    let request = v1::HandleSyncRequest {
        handle: known(call, params.file_handle_id)?,
        data_only: what == Sync::Data,
    };
    call.guest_read(request, |mut agent, request| async move {
        agent.handle_sync(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn utime(call: &Call) -> Result<Reply, CallError> {
    let params: HandleUtimeParams = call.params()?;
    let request = v1::HandleUtimeRequest {
        handle: known(call, params.file_handle_id)?,
        atime_nanos: times::to_nanos(&params.atime)?,
        mtime_nanos: times::to_nanos(&params.mtime)?,
    };
    call.guest(request, |mut agent, request| async move {
        agent.handle_utime(request).await
    })
    .await?;
    call.null()
}

/// Waits for the lock; a connection that ends gives up waiting.
pub(super) async fn lock(call: &Call) -> Result<Reply, CallError> {
    let params: HandleLockParams = call.params()?;
    let request = v1::HandleLockRequest {
        handle: known(call, params.file_handle_id)?,
        exclusive: params.exclusive.unwrap_or(false),
    };
    call.guest(request, |mut agent, request| async move {
        agent.handle_lock(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn unlock(call: &Call) -> Result<Reply, CallError> {
    let request = handle_request(call)?;
    call.guest(request, |mut agent, request| async move {
        agent.handle_unlock(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn close(call: &Call) -> Result<Reply, CallError> {
    let HandleParams { file_handle_id } = call.params()?;
    if !call.connection.handles.remove(file_handle_id) {
        return Err(fault::bad_handle().into());
    }
    let request = v1::HandleRequest {
        handle: file_handle_id,
    };
    // The file is out of the table, so closing it goes on by itself.
    let agent = call.connection.agent.clone();
    let closing = tokio::spawn(async move {
        guest_call(
            &agent,
            Repeat::IfUnsent,
            request,
            |mut agent, request| async move { agent.handle_close(request).await },
        )
        .await
    });
    match closing.await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(fault::sandbox_ended().into()),
    };
    call.null()
}

/// Closes all that the connection left open. What the guest does not close in
/// time stays open until the sandbox ends.
pub(super) async fn close_all(connection: &Connection) {
    let left = connection.handles.close();
    let closing = left
        .into_iter()
        .map(|handle| close_in_guest(connection, handle));
    let all = futures_util::future::join_all(closing);
    if timeout(CLOSE_ALL_TIMEOUT, all).await.is_err() {
        tracing::warn!(sandbox = %connection.sandbox, "files of an ended connection stay open");
    }
}

async fn close_in_guest(connection: &Connection, handle: u64) {
    let mut agent = connection.agent.client();
    if let Err(status) = agent.handle_close(v1::HandleRequest { handle }).await {
        tracing::debug!(sandbox = %connection.sandbox, handle, %status, "a file was not closed");
    }
}

fn handle_request(call: &Call) -> Result<v1::HandleRequest, CallError> {
    let HandleParams { file_handle_id } = call.params()?;
    Ok(v1::HandleRequest {
        handle: known(call, file_handle_id)?,
    })
}

/// Only files that this connection opened may be named.
fn known(call: &Call, handle: u64) -> Result<u64, CallError> {
    if call.connection.handles.contains(handle) {
        Ok(handle)
    } else {
        Err(fault::bad_handle().into())
    }
}
