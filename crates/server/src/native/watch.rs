//! Files of a sandbox that change, as they do: server-sent events (HTML standard,
//! section 9.2).
//!
//! A client that does not read holds up the guest's agent, and whatever the guest's
//! kernel cannot keep meanwhile is told as missed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse as _, Response, Sse};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::watch::{FileChange, FileChangeKind, MissedReason};
use tombolo_guest_proto::v1::{OsError, WatchEvent, WatchEventBatch, WatchKind, WatchRequest};
use tombolo_lifecycle::{ConnectRefusal, Phase};
use tonic::{Code, Status, Streaming};
use url::form_urlencoded;

use crate::app::App;
use crate::auth::Principal;
use crate::error::ApiError;
use crate::guest::{GuestAgent, is_lost};
use crate::openapi::{REFUSED, SANDBOXES_TAG, WatchParameters};
use crate::sandbox::{ConnectError, SandboxHandle, WATCHES_MAX};
use crate::sandboxes::find_seen;

/// Events on their way to one client.
const QUEUE_LEN: usize = 16;
/// The longest path that is told: Linux's longest (`PATH_MAX`) with room for what stands for
/// bytes that are no text.
const PATH_LEN_MAX: usize = 3 * 4096;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// What a client says that was here before.
const LAST_EVENT_ID: &str = "last-event-id";
/// `errno`s of Linux.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// A file of a sandbox is not watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("there is nothing at this path that the sandbox's user may read")]
    NotReadable(#[source] Status),
    #[error(
        "the sandbox watches as much as it can; watch less, or a directory with fewer below it"
    )]
    TooMany(#[source] Status),
    #[error("{WATCHES_MAX} clients watch files of this sandbox; end one of them")]
    TooManyClients,
    #[error("this is no path of a file: {}", .0.message())]
    Path(#[source] Status),
    #[error("the sandbox was started by an earlier version; use a new one")]
    OldAgent(#[source] Status),
    #[error("the sandbox cannot be reached")]
    Away(#[source] Status),
    #[error("the sandbox could not watch")]
    Failed(#[source] Status),
}

impl From<Status> for WatchError {
    fn from(status: Status) -> Self {
        let Some(failure) = OsError::from_status(&status) else {
            return match status.code() {
                // Its agent is as old as the sandbox.
                Code::Unimplemented => Self::OldAgent(status),
                _ if is_lost(&status) => Self::Away(status),
                _ => Self::Failed(status),
            };
        };
        match failure.errno {
            EPERM | ENOENT | EACCES | ENOTDIR => Self::NotReadable(status),
            EMFILE | ENOSPC => Self::TooMany(status),
            // Whatever else the guest's kernel has against a path.
            _ => Self::Path(status),
        }
    }
}

/// Watch files, from now on
///
/// Each event is one change: its name is the kind, its data says what changed. Changes of
/// 30 ms are told together, and repeated ones once. `missed` tells that changes may be
/// missing. Ends when the path is not there any more, and with the sandbox. A client that
/// comes back and says with `Last-Event-ID` what it saw is told `missed` first.
#[utoipa::path(
    get,
    path = "/api/v3/sandbox/{id}/files/watch",
    tag = SANDBOXES_TAG,
    params(("id" = String, Path, description = "The sandbox's id"), WatchParameters),
    responses(
        (status = 200, description = "Events, until the client goes away", body = FileChange, content_type = "text/event-stream"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn watch_files(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let request = wanted(&query.unwrap_or_default())?;
    let handle = find_seen(&app, &principal, &id).await?;
    is_running(&handle)?;
    let watches = handle.watches().try_acquire_owned();
    let place = watches.map_err(|_full| WatchError::TooManyClients)?;
    let agent = handle.agent().clone();
    let batches = begin(&agent, &request).await?;
    let (events, receiver) = mpsc::channel(QUEUE_LEN);
    let watch = Watch {
        agent,
        request,
        events,
        told: 0,
    };
    let was_here = headers.contains_key(LAST_EVENT_ID);
    let shutdown = app.shutdown.clone();
    app.tasks.spawn(async move {
        let client = watch.events.clone();
        tokio::select! {
            Over = watch.follow(batches, was_here) => {}
            () = client.closed() => {}
            () = handle.stopped().cancelled() => {}
            () = shutdown.cancelled() => {}
        }
        drop(place);
    });
    let events = Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default());
    Ok(events.into_response())
}

fn is_running(handle: &SandboxHandle) -> Result<(), ApiError> {
    match handle.status().phase {
        Phase::Running | Phase::Grace { .. } => Ok(()),
        Phase::Creating => Err(ConnectError::Refused(ConnectRefusal::NotReady).into()),
        Phase::Stopping { .. } | Phase::Stopped { .. } => Err(ApiError::sandbox_ended()),
    }
}

fn wanted(query: &str) -> Result<WatchRequest, ApiError> {
    let wrong = || {
        let words = "the query has one `path`, may have `recursive=true`, and nothing else";
        ApiError::new(ErrorCode::InvalidRequest, words)
    };
    let (mut path, mut recursive) = (None, None);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, &*value) {
            ("path", _) if path.is_none() => path = Some(value.into_owned()),
            ("recursive", "true") if recursive.is_none() => recursive = Some(true),
            ("recursive", "false") if recursive.is_none() => recursive = Some(false),
            _ => return Err(wrong()),
        }
    }
    Ok(WatchRequest {
        path: path.filter(|path| !path.is_empty()).ok_or_else(wrong)?,
        recursive: recursive.unwrap_or(false),
    })
}

async fn begin(
    agent: &GuestAgent,
    request: &WatchRequest,
) -> Result<Streaming<WatchEventBatch>, WatchError> {
    let batches = agent.client().watch(request.clone()).await?;
    Ok(batches.into_inner())
}

/// One client that listens.
struct Watch {
    agent: GuestAgent,
    request: WatchRequest,
    events: mpsc::Sender<Result<Event, Infallible>>,
    /// Events so far.
    told: u64,
}

/// Nothing more is to be told, or nobody to tell it to.
struct Over;

impl Watch {
    /// Until there is nothing to watch, however often the way to it is lost.
    async fn follow(mut self, batches: Streaming<WatchEventBatch>, was_here: bool) -> Over {
        let Err(over) = self.try_follow(batches, was_here).await;
        over
    }

    async fn try_follow(
        &mut self,
        mut batches: Streaming<WatchEventBatch>,
        was_here: bool,
    ) -> Result<Infallible, Over> {
        if was_here {
            self.missed(MissedReason::Reconnected).await?;
        }
        loop {
            self.pass_on(&mut batches).await?;
            batches = self.again().await?;
            self.missed(MissedReason::Interrupted).await?;
        }
    }

    /// Until the way to the sandbox is lost.
    async fn pass_on(&mut self, batches: &mut Streaming<WatchEventBatch>) -> Result<(), Over> {
        loop {
            match batches.message().await {
                Ok(Some(batch)) => {
                    for event in batch.events {
                        self.pass(event).await?;
                    }
                }
                Ok(None) => return Err(Over),
                Err(status) if is_lost(&status) => return Ok(()),
                Err(status) => {
                    tombolo_diag::log_limited!(debug, %status, "a watch broke off");
                    self.missed(MissedReason::Interrupted).await?;
                    return Err(Over);
                }
            }
        }
    }

    async fn pass(&mut self, event: WatchEvent) -> Result<(), Over> {
        match change(event) {
            Some(change) if self.is_beyond(&change) => self.missed(MissedReason::Overflow).await,
            Some(change) => self.tell(&change).await,
            None => Ok(()),
        }
    }

    async fn again(&mut self) -> Result<Streaming<WatchEventBatch>, Over> {
        loop {
            sleep(RETRY_PAUSE).await;
            match begin(&self.agent, &self.request).await {
                Ok(batches) => return Ok(batches),
                Err(WatchError::Away(status)) => tracing::debug!(%status, "no changes for now"),
                Err(WatchError::NotReadable(_)) => {
                    // It went meanwhile.
                    let change = self.of_all(FileChangeKind::Removed, None);
                    self.tell(&change).await?;
                    return Err(Over);
                }
                Err(error) => {
                    tracing::debug!(%error, "a watch is not taken up again");
                    return Err(Over);
                }
            }
        }
    }

    /// Whether it is of what was not asked for, or too long: a guest's agent is the guest's.
    fn is_beyond(&self, change: &FileChange) -> bool {
        let asked = self.request.path.trim_end_matches('/');
        let from_len = change.from.as_ref().map_or(0, String::len);
        let is_long = change.path.len().max(from_len) > PATH_LEN_MAX;
        is_long || !change.path.starts_with(asked)
    }

    async fn missed(&mut self, reason: MissedReason) -> Result<(), Over> {
        let change = self.of_all(FileChangeKind::Missed, Some(reason));
        self.tell(&change).await
    }

    fn of_all(&self, kind: FileChangeKind, reason: Option<MissedReason>) -> FileChange {
        FileChange {
            kind,
            path: self.request.path.clone(),
            from: None,
            is_directory: self.request.recursive,
            reason,
        }
    }

    async fn tell(&mut self, change: &FileChange) -> Result<(), Over> {
        self.told += 1;
        let data = serde_json::to_string(change).map_err(|_impossible| Over)?;
        let event = Event::default()
            .id(self.told.to_string())
            .event(change.kind.as_str())
            .data(data);
        self.events.send(Ok(event)).await.map_err(|_closed| Over)
    }
}

/// What a guest says, if it is of a kind that this version knows.
fn change(event: WatchEvent) -> Option<FileChange> {
    let kind = match WatchKind::try_from(event.kind).ok()? {
        WatchKind::WatchCreated => FileChangeKind::Created,
        WatchKind::WatchModified => FileChangeKind::Modified,
        WatchKind::WatchMetadata => FileChangeKind::Metadata,
        WatchKind::WatchRemoved => FileChangeKind::Removed,
        WatchKind::WatchRenamed => FileChangeKind::Renamed,
        WatchKind::WatchUnwatched => FileChangeKind::Unwatched,
        WatchKind::WatchOverflow => FileChangeKind::Missed,
    };
    Some(FileChange {
        kind,
        path: event.path,
        from: (kind == FileChangeKind::Renamed).then_some(event.from),
        is_directory: event.is_directory,
        reason: (kind == FileChangeKind::Missed).then_some(MissedReason::Overflow),
    })
}
