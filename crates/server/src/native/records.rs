//! Records of what sandboxes send out, as they are made: server-sent events
//! (HTML standard, section 9.2).

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse as _, Response, Sse};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::native::EGRESS_RECORDS_PATH;
use tombolo_ids::{OrganisationId, SandboxId};
use tombolo_node_proto::egress::TailReply;
use tonic::Streaming;
use url::form_urlencoded;

use super::egress::link;
use crate::app::App;
use crate::auth::Principal;
use crate::egress::{EgressError, EgressLink};
use crate::error::ApiError;
use crate::openapi::{EGRESS_TAG, REFUSED, RecordsParameters};
use crate::sandboxes::find_seen;

/// Events on their way to one client.
const QUEUE_LEN: usize = 64;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Tells of records that came too fast for this client.
const SKIPPED: &str = "skipped";
/// Tells that records may be missing, because the egress process went away.
const INTERRUPTED: &str = "interrupted";

/// Records of what sandboxes send out, from now on
///
/// Each event is one record. An event `skipped` tells how many came too fast, an
/// event `interrupted` that the egress process was away. Ends with the sandbox
/// that is asked for.
#[utoipa::path(
    get,
    path = EGRESS_RECORDS_PATH,
    tag = EGRESS_TAG,
    operation_id = "egress_records",
    params(RecordsParameters),
    responses(
        (status = 200, description = "Events, until the client goes away", body = String, content_type = "text/event-stream"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn records(
    State(app): State<Arc<App>>,
    principal: Principal,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let egress = link(&app)?.clone();
    let handle = match wanted(&query.unwrap_or_default())? {
        Some(id) => Some(find_seen(&app, &principal, &id).await?),
        None => None,
    };
    let sandbox = handle.as_ref().map(|handle| handle.id().clone());
    let stream = egress.tail(sandbox.as_ref()).await;
    let stream = stream.map_err(EgressError::from)?;
    let (events, receiver) = mpsc::channel(QUEUE_LEN);
    let tail = Tail {
        egress,
        sandbox,
        organisation: principal.organisation().cloned(),
        events,
    };
    let ended = handle.map_or_else(CancellationToken::new, |handle| handle.stopped().clone());
    let shutdown = app.shutdown.clone();
    app.tasks.spawn(async move {
        tokio::select! {
            () = tail.follow(stream) => {}
            () = ended.cancelled() => {}
            () = shutdown.cancelled() => {}
        }
    });
    let events = Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default());
    Ok(events.into_response())
}

/// The sandbox that is asked for, if one is.
fn wanted(query: &str) -> Result<Option<String>, ApiError> {
    let mut wanted = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key != "sandbox" || wanted.is_some() {
            return Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "the query may have one `sandbox` and nothing else",
            ));
        }
        wanted = Some(value.into_owned());
    }
    Ok(wanted)
}

/// One client that listens.
struct Tail {
    egress: EgressLink,
    sandbox: Option<SandboxId>,
    /// Whose records are told: everybody's when absent.
    organisation: Option<OrganisationId>,
    events: mpsc::Sender<Result<Event, Infallible>>,
}

/// The client has gone away.
struct Gone;

impl Tail {
    /// Until the client goes away, however often the egress process does.
    async fn follow(self, mut stream: Streaming<TailReply>) {
        tokio::select! {
            Gone = self.pass_all_on(&mut stream) => {}
            () = self.events.closed() => {}
        }
    }

    async fn pass_all_on(&self, stream: &mut Streaming<TailReply>) -> Gone {
        loop {
            let passed_on = async {
                self.pass_on(stream).await?;
                let event = Event::default().event(INTERRUPTED).data("{}");
                self.tell(event).await
            };
            if let Err(gone) = passed_on.await {
                return gone;
            }
            *stream = self.again().await;
        }
    }

    async fn again(&self) -> Streaming<TailReply> {
        loop {
            sleep(RETRY_PAUSE).await;
            match self.egress.tail(self.sandbox.as_ref()).await {
                Ok(stream) => return stream,
                Err(error) => tracing::debug!(%error, "no records for now"),
            }
        }
    }

    /// Until the egress process goes away.
    async fn pass_on(&self, stream: &mut Streaming<TailReply>) -> Result<(), Gone> {
        while let Ok(Some(reply)) = stream.message().await {
            if reply.skipped > 0 {
                let skipped = format!("{{\"skipped\":{}}}", reply.skipped);
                self.tell(Event::default().event(SKIPPED).data(skipped))
                    .await?;
            }
            if self.is_for(&reply.record_json) {
                self.tell(Event::default().data(reply.record_json)).await?;
            }
        }
        Ok(())
    }

    async fn tell(&self, event: Event) -> Result<(), Gone> {
        self.events.send(Ok(event)).await.map_err(|_closed| Gone)
    }

    /// Whether a record is of the organisation that asks. What does not say
    /// whose it is, is nobody's. A record that an event could not hold is none.
    fn is_for(&self, record_json: &str) -> bool {
        #[derive(Deserialize)]
        struct Owner<'a> {
            #[serde(borrow)]
            org: Cow<'a, str>,
        }
        let Some(organisation) = &self.organisation else {
            return true;
        };
        serde_json::from_str::<Owner<'_>>(record_json)
            .is_ok_and(|owner| owner.org == organisation.as_str())
    }
}
