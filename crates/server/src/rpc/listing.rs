//! Directories, walks and globs.
//!
//! JavaScript clients read the entries of a walk from a stream, one JSON
//! document in each chunk; the Python SDK expects the whole list as the
//! answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::{
    DirEntry, ExpandGlobOptions, ExpandGlobParams, PathParams, Pattern, StreamReference, WalkEntry,
    WalkOptions, WalkParams,
};
use tombolo_guest_proto::v1;
use tonic::{Status, Streaming};

use super::call::Call;
use super::connection::Connection;
use super::dispatch::too_large;
use super::fault::{self, CallError};
use super::outbound::{OutboundStream, StreamStopped};
use super::params;
use super::reply::{Reply, ReplyWriter};
use crate::guest::Dialect;

pub(super) async fn read_dir(call: &Call) -> Result<Reply, CallError> {
    let PathParams { path } = call.params()?;
    let mut batches = call
        .guest_read(v1::PathRequest { path }, |mut agent, request| async move {
            agent.read_dir(request).await
        })
        .await?;
    let mut list = ListWriter::new(call);
    while let Some(batch) = batches.message().await? {
        for entry in batch.entries {
            list.push(&DirEntry {
                name: entry.name,
                is_file: entry.is_file,
                is_directory: entry.is_directory,
                is_symlink: entry.is_symlink,
            })?;
        }
    }
    Ok(list.finish())
}

pub(super) async fn walk(call: &Call) -> Result<Reply, CallError> {
    let WalkParams { path } = call.params()?;
    let options: WalkOptions = options(call)?;
    let regexes = |patterns: Option<Vec<Pattern>>| -> Vec<v1::Regex> {
        patterns.into_iter().flatten().map(regex).collect()
    };
    let request = v1::WalkRequest {
        path,
        max_depth: options.max_depth.and_then(depth),
        include_files: options.include_files.unwrap_or(true),
        include_dirs: options.include_dirs.unwrap_or(true),
        include_symlinks: options.include_symlinks.unwrap_or(true),
        follow_symlinks: options.follow_symlinks.unwrap_or(false),
        canonicalize: options.canonicalize.unwrap_or(true),
        has_exts: options.exts.is_some(),
        exts: options.exts.unwrap_or_default(),
        has_match: options.matching.is_some(),
        r#match: regexes(options.matching),
        skip: regexes(options.skip),
    };
    let batches = call
        .guest_read(request, |mut agent, request| async move {
            agent.walk(request).await
        })
        .await?;
    entries(call, batches, Listed::Entry).await
}

pub(super) async fn expand_glob(call: &Call) -> Result<Reply, CallError> {
    let ExpandGlobParams { glob } = call.params()?;
    let options: ExpandGlobOptions = options(call)?;
    let request = v1::ExpandGlobRequest {
        glob,
        root: options.root.unwrap_or_default(),
        exclude: options.exclude.unwrap_or_default(),
        include_dirs: options.include_dirs.unwrap_or(true),
        follow_symlinks: options.follow_symlinks.unwrap_or(false),
        canonicalize: options.canonicalize.unwrap_or(true),
        extended: options.extended.unwrap_or(true),
        globstar: options.globstar.unwrap_or(true),
        case_insensitive: options.case_insensitive.unwrap_or(false),
    };
    let batches = call
        .guest_read(request, |mut agent, request| async move {
            agent.expand_glob(request).await
        })
        .await?;
    entries(call, batches, |entry| Listed::Path(entry.path)).await
}

/// Options stand in an object of their own, or beside the path.
fn options<'a, T: Deserialize<'a>>(call: &'a Call) -> Result<T, CallError> {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow, default)]
        options: Option<&'a RawValue>,
    }
    let nested: Nested<'_> = call.params()?;
    match nested.options {
        Some(options) => params::parse(options.get().as_bytes()),
        None => call.params(),
    }
}

/// A depth beyond any tree is no bound.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value was checked to be in range"
)]
fn depth(depth: f64) -> Option<u32> {
    (depth < f64::from(u32::MAX)).then(|| depth.max(0.0) as u32)
}

fn regex(pattern: Pattern) -> v1::Regex {
    v1::Regex {
        source: pattern.source,
        flags: pattern.flags,
    }
}

/// An element of the Python SDK's list.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed {
    Entry(WalkEntry),
    Path(String),
}

async fn entries(
    call: &Call,
    mut batches: Streaming<v1::WalkEntryBatch>,
    listed: fn(WalkEntry) -> Listed,
) -> Result<Reply, CallError> {
    // The first batch tells most errors while there still is a call to fail.
    let first = batches.message().await?;
    let connection = &call.connection;
    if connection.dialect != Dialect::Python {
        return stream_entries(call, first, batches);
    }
    let mut list = ListWriter::new(call);
    let mut next = first;
    while let Some(batch) = next {
        for entry in batch.entries {
            list.push(&listed(walk_entry(entry)))?;
        }
        next = batches.message().await?;
    }
    Ok(list.finish())
}

fn stream_entries(
    call: &Call,
    first: Option<v1::WalkEntryBatch>,
    batches: Streaming<v1::WalkEntryBatch>,
) -> Result<Reply, CallError> {
    let connection = Arc::clone(&call.connection);
    let stream = connection.outbound.open();
    let mut reply = call.ok(&StreamReference {
        stream_id: stream.id(),
    })?;
    let answered = CancellationToken::new();
    reply.sent = Some(answered.clone());
    let tasks = connection.end.stream_tasks.clone();
    tasks.spawn(async move {
        let peer_gone = connection.end.peer_gone.clone();
        tokio::select! {
            () = peer_gone.cancelled() => {}
            () = send_entries(&connection, stream, answered, first, batches) => {}
        }
    });
    Ok(reply)
}

async fn send_entries(
    connection: &Connection,
    mut stream: OutboundStream,
    answered: CancellationToken,
    first: Option<v1::WalkEntryBatch>,
    batches: Streaming<v1::WalkEntryBatch>,
) {
    let cancelled = stream.cancelled();
    let outcome = tokio::select! {
        outcome = async {
            answered.cancelled().await;
            copy_entries(&mut stream, first, batches).await
        } => outcome,
        () = connection.end.streams.cancelled() => Ok(()),
        () = cancelled.cancelled() => Err(CopyError::Stopped(StreamStopped::Cancelled)),
    };
    let finished = match outcome {
        Ok(()) => stream.end().await,
        Err(CopyError::Guest(status)) => stream.fail(fault::from_status(&status)).await,
        Err(CopyError::Stopped(stopped)) => Err(stopped),
    };
    if let Err(stopped) = finished {
        tracing::trace!(%stopped, "a listing was not read to its end");
    }
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("the guest stopped listing")]
    Guest(#[from] Status),
    #[error("the client reads no more")]
    Stopped(#[from] StreamStopped),
}

async fn copy_entries(
    stream: &mut OutboundStream,
    first: Option<v1::WalkEntryBatch>,
    mut batches: Streaming<v1::WalkEntryBatch>,
) -> Result<(), CopyError> {
    let mut next = first;
    while let Some(batch) = next {
        for entry in batch.entries {
            let json = serde_json::to_vec(&walk_entry(entry))
                .map_err(|error| Status::internal(error.to_string()))?;
            stream.data(&json).await?;
        }
        next = batches.message().await?;
    }
    Ok(())
}

fn walk_entry(entry: v1::WalkEntry) -> WalkEntry {
    WalkEntry {
        path: entry.path,
        name: entry.name,
        is_file: entry.is_file,
        is_directory: entry.is_directory,
        is_symlink: entry.is_symlink,
    }
}

/// Writes a JSON array, up to what the client takes.
struct ListWriter {
    writer: ReplyWriter,
    len_max: usize,
    is_empty: bool,
}

impl ListWriter {
    fn new(call: &Call) -> Self {
        let mut writer = call.reply_writer();
        writer.push_json("[");
        Self {
            writer,
            len_max: call.connection.reply_len_max(),
            is_empty: true,
        }
    }

    fn push<T: Serialize>(&mut self, entry: &T) -> Result<(), CallError> {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.writer.push_json(",");
        }
        self.writer.push_value(entry)?;
        if self.writer.len() > self.len_max {
            return Err(too_large(self.len_max));
        }
        Ok(())
    }

    fn finish(mut self) -> Reply {
        self.writer.push_json("]");
        self.writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_beyond_any_tree_is_no_bound() {
        let cases = [
            (0.0, Some(0)),
            (3.0, Some(3)),
            (-1.0, Some(0)),
            (1e12, None),
            (f64::INFINITY, None),
        ];
        for (given, expected) in cases {
            assert_eq!(depth(given), expected, "{given}");
        }
    }
}
