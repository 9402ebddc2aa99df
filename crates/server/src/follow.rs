//! Follows the node: hears of sandboxes that end by themselves, and after every
//! interruption compares what the node has with what this server knows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::sleep;
use tombolo_diag::log_limited;
use tombolo_ids::SandboxId;
use tombolo_lifecycle::{NodeEnd, Phase};
use tombolo_node_proto::v1::SandboxEnded;

use crate::app::App;
use crate::node::NodeCallError;

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Sandboxes measured or taken down at a time.
const AT_ONCE: usize = 4;

/// The node cannot be followed any more, for now.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Call(#[from] NodeCallError),
    #[error("the node stopped telling what ends")]
    Stream(#[source] tonic::Status),
    #[error("the node closed the stream of events")]
    Closed,
}

/// Runs until the server stops.
pub(crate) async fn follow_node(app: Arc<App>) {
    let mut pause = RETRY_FIRST;
    loop {
        let error = tokio::select! {
            () = app.shutdown.cancelled() => return,
            error = follow_once(&app) => error,
        };
        if app.node.is_up() {
            tracing::warn!(%error, "lost the node");
            pause = RETRY_FIRST;
        } else {
            log_limited!(debug, %error, "the node is away");
        }
        app.node.set_up(false);
        if app
            .shutdown
            .run_until_cancelled(sleep(pause))
            .await
            .is_none()
        {
            return;
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Comes back when the stream of events breaks.
async fn follow_once(app: &App) -> FollowError {
    match try_follow(app).await {
        Ok(()) => FollowError::Closed,
        Err(error) => error,
    }
}

async fn try_follow(app: &App) -> Result<(), FollowError> {
    let mut events = app.node.watch().await?;
    // The first message says that no event is missed from here on.
    if events
        .message()
        .await
        .map_err(FollowError::Stream)?
        .is_none()
    {
        return Err(FollowError::Closed);
    }
    reconcile(app).await?;
    app.node.set_up(true);
    tracing::info!("following the node");
    while let Some(event) = events.message().await.map_err(FollowError::Stream)? {
        on_ended(app, &event).await;
    }
    Ok(())
}

async fn on_ended(app: &App, event: &SandboxEnded) {
    let end = match event.reason.as_str() {
        "deadline" => NodeEnd::Deadline,
        "lost" => NodeEnd::Lost,
        _ => NodeEnd::VmExited,
    };
    let handle = event
        .sandbox_id
        .parse::<SandboxId>()
        .ok()
        .and_then(|id| app.registry.get(&id));
    let Some(handle) = handle else {
        tracing::debug!(sandbox = event.sandbox_id, "an unknown sandbox ended");
        return;
    };
    tracing::warn!(sandbox = %handle.id(), reason = event.reason, "ended by itself");
    handle.node_ended(end).await;
}

/// What runs here and not on the node is lost; what runs on the node and is
/// unknown here is taken down. The order of the two looks matters: what starts
/// to run in between must count as neither.
async fn reconcile(app: &App) -> Result<(), NodeCallError> {
    let expected: Vec<_> = app
        .registry
        .all()
        .into_iter()
        .filter(|handle| is_running(handle.status().phase))
        .collect();
    let states = app.node.list().await?;
    let present: HashSet<&str> = states.iter().map(|state| &*state.sandbox_id).collect();
    for handle in expected {
        if !present.contains(handle.id().as_str()) {
            tracing::warn!(sandbox = %handle.id(), "the node has lost it");
            handle.node_ended(NodeEnd::Lost).await;
        }
    }
    let unknown = states
        .iter()
        .filter_map(|state| state.sandbox_id.parse::<SandboxId>().ok())
        .filter(|id| app.registry.get(id).is_none());
    stream::iter(unknown)
        .for_each_concurrent(AT_ONCE, async |id| {
            tracing::warn!(sandbox = %id, "nobody knows it any more, taking it down");
            if let Err(error) = app.node.destroy(&id).await {
                tracing::warn!(sandbox = %id, %error, "left for the next comparison");
            }
        })
        .await;
    Ok(())
}

fn is_running(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Grace { .. })
}

/// Measures every running sandbox now and then, until the server stops.
pub(crate) async fn measure_usage(app: Arc<App>) {
    let interval = app.config.limits.usage_interval;
    while app
        .shutdown
        .run_until_cancelled(sleep(interval))
        .await
        .is_some()
    {
        let running = app
            .registry
            .all()
            .into_iter()
            .filter(|handle| is_running(handle.status().phase));
        stream::iter(running)
            .for_each_concurrent(AT_ONCE, async |handle| {
                if let Err(error) = handle.meter().lock().await.measure(&app).await {
                    log_limited!(error, sandbox = %handle.id(), %error, "usage not recorded");
                }
            })
            .await;
    }
}
