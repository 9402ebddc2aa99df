//! `tombolo up`: the supervisor of one machine. It gets what is missing,
//! starts the egress proxy, the node and the server, starts each again when it
//! dies, and at the end takes everything down.
//!
//! An end in order (an interrupt, or SIGTERM) ends the sandboxes: whoever
//! stops the server by hand expects the machine to be free afterwards. After
//! any other end (`kill -9` of this process or of a child)
//! the virtual machines are still there, because they are nobody's children,
//! and the next node takes them over.

mod background;
mod child;
mod fleet;
mod orphans;
mod place;
mod tokens;

use std::time::Duration;

use futures_util::{TryStreamExt as _, stream};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tombolo_diag::ExitCode;

use crate::cli::UpArgs;
use crate::commands::block_on;
use crate::config::Settings;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::provision::{self, Provisioned};
use crate::state::Tenure;
use crate::{local, output};
pub(crate) use background::{ensure_running, outlast};
pub(crate) use fleet::{Fleet, Pids};
pub(crate) use place::take as take_place;
pub(crate) use tokens::ensure_default;
use tombolo_client::Client;

/// How long an ephemeral server stays without sandboxes.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// How often an ephemeral server looks whether it has any.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// How long the sandboxes may take to end when the server does.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may take to end once it has agreed to. Longer than its own grace.
const RETIRE_MAX: Duration = Duration::from_secs(10);

/// How many sandboxes are ended at the same time.
const DRAINED_AT_ONCE: usize = 8;

/// Runs the server of this machine until it is told to end.
pub(crate) fn up(context: &Context, args: &UpArgs) -> Outcome {
    let settings = context.settings(&args.settings.flags())?;
    crate::context::require_root("\"tombolo up\"")?;
    context.state.prepare(&settings).map_err(state_failure)?;
    let tenure = if args.ephemeral {
        Tenure::Passes
    } else {
        Tenure::Stays
    };
    let _lock = block_on(place::take(context, tenure))?;
    block_on(orphans::outlast(context))?;
    context.state.remove_running()?;
    let provisioned = provision::provision(context, &settings)?;
    block_on(supervise(context, &settings, args, tenure, provisioned))
}

fn state_failure(error: crate::state::StateError) -> Failure {
    let hint = match &error {
        crate::state::StateError::Closed { directory } => format!(
            "choose another place with --state-dir, or let others pass: chmod o+x {}",
            directory.display()
        ),
        crate::state::StateError::SocketPath { .. } => {
            "choose a shorter path with --state-dir".to_owned()
        }
        _ => "choose another place with --state-dir".to_owned(),
    };
    Failure::new(ExitCode::System, error).hint(hint)
}

/// What a person needs to point an SDK here.
#[derive(Debug, Serialize)]
struct Announcement {
    url: String,
    token: String,
    isolation: String,
}

async fn supervise(
    context: &Context,
    settings: &Settings,
    args: &UpArgs,
    tenure: Tenure,
    provisioned: Provisioned,
) -> Outcome {
    // Listened for before anything starts, so that an early interrupt is not
    // the end of this process alone.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stopped = std::pin::pin!(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    let mut fleet = tokio::select! {
        fleet = Fleet::start(context, settings, tenure) => fleet?,
        () = &mut stopped => return Ok(()),
    };
    drop(provisioned);
    let served = tokio::select! {
        served = serve(context, args, &mut fleet) => served.map(|()| Ended::Retired),
        () = &mut stopped => Ok(Ended::Asked),
    };
    let drained = if matches!(served, Ok(Ended::Retired)) {
        tracing::info!("ending: it has no sandboxes, and no server that could make some");
        Ok(())
    } else {
        output::tell("ending the sandboxes and the server");
        drain(context).await
    };
    fleet.stop().await;
    context.state.remove_running()?;
    served.and(drained)
}

/// Why a supervisor ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// By a signal.
    Asked,
    /// Its server had nothing to do and made room, or will not be needed.
    Retired,
}

/// Ends only by itself: never, or when an ephemeral server has retired.
async fn serve(context: &Context, args: &UpArgs, fleet: &mut Fleet) -> Outcome {
    let work = async {
        let client = ensure_default(context).await?;
        announce(&client, args).await?;
        if args.ephemeral {
            retire_when_idle(context, &client).await
        } else {
            std::future::pending().await
        }
    };
    let mut retired = std::pin::pin!(fleet.keep_alive(context));
    let failed: Outcome = tokio::select! {
        retired = &mut retired => return retired,
        failed = work => failed,
    };
    if !args.ephemeral {
        return failed;
    }
    // What asked in vain may have asked a server that was just making room.
    match tokio::time::timeout(RETIRE_MAX, retired).await {
        Ok(retired) => retired,
        Err(_elapsed) => failed,
    }
}

/// Asks the server to retire whenever there has been no sandbox for long enough. It
/// refuses if one has come meanwhile.
async fn retire_when_idle(context: &Context, client: &Client) -> Outcome {
    loop {
        idle(client).await;
        if let Some(running) = context.state.running()? {
            let answer = place::make_room(context, &running).await?;
            tracing::debug!(?answer, "there has been no sandbox for a while");
        }
    }
}

async fn announce(client: &Client, args: &UpArgs) -> Outcome {
    let info = client.info().await?;
    let isolation = info
        .node
        .map_or_else(|| "unknown".to_owned(), |node| node.isolation);
    let announcement = Announcement {
        url: client.endpoint().to_string(),
        token: client.token().reveal().to_owned(),
        isolation,
    };
    if args.json {
        return output::data(&serde_json::to_string(&announcement)?);
    }
    output::tell(&format!(
        "Tombolo is up (isolation: {}). Point the SDKs here by:\n",
        announcement.isolation
    ));
    let Announcement { url, token, .. } = announcement;
    output::data(&format!(
        "export DENO_DEPLOY_TOKEN={token}\n\
         export DENO_SANDBOX_ENDPOINT={url}\n\
         export DENO_DEPLOY_ENDPOINT={url}"
    ))?;
    output::tell("\nCtrl-C ends it and its sandboxes.");
    Ok(())
}

/// Waits until there has been no sandbox for long enough.
async fn idle(client: &Client) {
    let mut idle_for = Duration::ZERO;
    while idle_for < IDLE_MAX {
        tokio::time::sleep(IDLE_CHECK).await;
        let busy = match client.info().await {
            Ok(info) => info.node.is_none_or(|node| node.sandbox_count > 0),
            // A server that is just being started again is not idle.
            Err(_unreachable) => true,
        };
        idle_for = if busy {
            Duration::ZERO
        } else {
            idle_for + IDLE_CHECK
        };
    }
}

/// Ends every running sandbox, whichever organisation's.
pub(crate) async fn drain(context: &Context) -> Outcome {
    let drained = async {
        let owner = local::admin(context)
            .await
            .map_err(|failure| failure.context("the sandboxes are not ended"))?;
        let rows = owner.sandboxes().running().all().await?;
        stream::iter(rows.into_iter().map(Ok::<_, Failure>))
            .try_for_each_concurrent(DRAINED_AT_ONCE, |row| {
                let owner = &owner;
                async move { Ok(owner.sandbox(&row.id).kill().await?) }
            })
            .await
    };
    match tokio::time::timeout(DRAIN_TIMEOUT, drained).await {
        Ok(drained) => drained,
        Err(_elapsed) => Err(Failure::message(
            ExitCode::Failure,
            "some sandboxes did not end in time",
        )
        .hint("the next \"tombolo up\" takes them over")),
    }
}
