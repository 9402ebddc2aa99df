//! `tombolo sandbox …`: everything but `copy` and exposed ports, which have
//! their own modules.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tombolo_api::config::NewSandbox;
use tombolo_api::native::{SandboxPhase, SandboxRow};
use tombolo_api::sandbox::StopAt;
use tombolo_ids::UnixMillis;

use super::{OK, code, copy, expose, shell, ssh, watch};
use crate::attach::{self, Mode, Signals};
use crate::cli::{CreateArgs, ExecArgs, ExtendArgs, KillArgs, ListArgs, SandboxCommand};
use crate::config::keys;
use crate::context::Context;
use crate::failure::Outcome;
use crate::network::Network;
use crate::{local, output, wire};
use tombolo_client::{Client, Command, ConnectError, ExitStatus, OomConfidence, Sandbox};

/// How many sandboxes are ended at the same time.
const KILLS_AT_ONCE: usize = 8;
/// How far the server's clock may be from ours.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(30);
/// How long the creation of a sandbox takes at most if all is there.
const LONG: Duration = Duration::from_secs(3);

pub(super) async fn sandbox(context: &Context, command: SandboxCommand) -> Outcome<u8> {
    match command {
        SandboxCommand::Create(args) => create(context, args).await.map(|()| OK),
        SandboxCommand::List(args) => list(context, &args).await.map(|()| OK),
        SandboxCommand::Exec(args) => exec(context, args).await,
        SandboxCommand::Shell(args) => shell::shell(context, args).await,
        SandboxCommand::Ps(args) => shell::list(context, &args).await.map(|()| OK),
        SandboxCommand::Copy(args) => copy::copy(context, &args).await.map(|()| OK),
        SandboxCommand::Code(args) => code::code(context, args).await.map(|()| OK),
        SandboxCommand::Watch(args) => watch::watch(context, &args).await.map(|()| OK),
        SandboxCommand::Ssh(args) => ssh::ssh(context, &args).await,
        SandboxCommand::Expose(args) => expose::expose(context, &args).await.map(|()| OK),
        SandboxCommand::Exposures(args) => expose::list(context, &args).await.map(|()| OK),
        SandboxCommand::Unexpose(args) => expose::remove(context, &args).await.map(|()| OK),
        SandboxCommand::Extend(args) => extend(context, &args).await.map(|()| OK),
        SandboxCommand::Kill(args) => kill(context, &args).await,
    }
}

/// The server that was named by flag or variable, or the local one.
pub(super) async fn client(context: &Context, args: &crate::cli::ServerArgs) -> Outcome<Client> {
    let named = args
        .endpoint
        .as_deref()
        .or_else(|| context.environment.get(keys::ENDPOINT_VARIABLE));
    local::connect(context, named).await
}

async fn create(context: &Context, args: CreateArgs) -> Outcome {
    let env = wire::variables(&args.env, &context.environment)?;
    let network = Network::read(&args.network, &env, &context.environment)?;
    let config = NewSandbox {
        memory_mb: args.memory,
        timeout: Some(lifetime(args.timeout)),
        labels: wire::labels(&args.label)?,
        env,
        allow_net: network.allow_net,
        secrets: network.secrets,
        egress_policy: network.egress_policy,
        ..NewSandbox::default()
    };
    let client = client(context, &args.server).await?;
    let sandbox = made(config, &client).await;
    let sandbox = sandbox.map_err(wire::not_connected)?;
    warn(sandbox.warnings());
    let id = sandbox.id().clone();
    sandbox.close().await;
    if args.json {
        output::json(&json!({ "id": id }))
    } else {
        output::data(id.as_str())
    }
}

/// Makes a sandbox, and tells a person what takes long.
pub(super) async fn made(config: NewSandbox, client: &Client) -> Result<Sandbox, ConnectError> {
    let mut making = std::pin::pin!(Sandbox::builder().config(config).create(client));
    if let Ok(made) = tokio::time::timeout(LONG, &mut making).await {
        return made;
    }
    if output::stderr_is_terminal() {
        output::tell(
            "waiting for the sandbox: the first of a memory size waits for its template, which is \
             made once",
        );
    }
    making.await
}

/// Tells what is valid and probably not meant.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        output::tell(&format!("warning: {}", output::printable(warning)));
    }
}

/// A duration as the create configuration has it: whole seconds, at least one.
pub(super) fn lifetime(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    format!("{}s", seconds.max(1))
}

/// As [`client`]; without a name, the machine's owner, to whom every
/// organisation's sandboxes are there to be seen and ended.
pub(super) async fn overseer(context: &Context, args: &crate::cli::ServerArgs) -> Outcome<Client> {
    let is_named =
        args.endpoint.is_some() || context.environment.get(keys::ENDPOINT_VARIABLE).is_some();
    if is_named {
        client(context, args).await
    } else {
        local::admin(context).await
    }
}

async fn list(context: &Context, args: &ListArgs) -> Outcome {
    let labels = wire::labels(&args.label)?;
    let client = overseer(context, &args.server).await?;
    let mut listing = client.sandboxes().labels(labels);
    if args.running {
        listing = listing.running();
    }
    if let Some(limit) = args.limit {
        listing = listing.limit(limit);
    }
    let rows = listing.all().await.map_err(wire::refused)?;
    if args.json {
        return output::json(&rows);
    }
    let head = [
        "ID",
        "STATE",
        "MEMORY",
        "CREATED",
        "ENDS",
        "ORGANISATION",
        "LABELS",
    ];
    output::table(&head, rows.iter().map(row_cells).collect())
}

fn row_cells(row: &SandboxRow) -> Vec<String> {
    let state = match (&row.state, &row.reason) {
        (SandboxPhase::Stopped, Some(reason)) => format!("stopped ({reason})"),
        (phase, _) => phase.as_str().to_owned(),
    };
    let labels: Vec<_> = row.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vec![
        row.id.to_string(),
        state,
        format!("{} MiB", row.memory_mib.0),
        moment(row.created_at_ms),
        moment(row.stopped_at_ms.unwrap_or(row.deadline_ms)),
        row.organisation.to_string(),
        labels.join(" "),
    ]
}

/// A moment to the second, in UTC.
pub(super) fn moment(at: UnixMillis) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_out_of_range) => at.0.to_string(),
    }
}

async fn exec(context: &Context, args: ExecArgs) -> Outcome<u8> {
    let mode = Mode::choose(args.tty, args.no_tty);
    let variables = wire::variables(&args.env, &context.environment)?;
    let what = What {
        words: args.command,
        env: with_terminal(variables, context, mode),
        cwd: args.cwd,
    };
    attend(context, &args.server, &args.id, what, mode).await
}

/// What a person wants to run.
pub(super) struct What {
    /// The program and its arguments.
    pub(super) words: Vec<String>,
    pub(super) env: std::collections::BTreeMap<String, String>,
    pub(super) cwd: Option<String>,
}

impl What {
    pub(super) fn command(self, sandbox: &Sandbox) -> Command {
        let mut words = self.words.into_iter();
        let command = sandbox.command(words.next().unwrap_or_default());
        let command = command.args(words).envs(self.env);
        match self.cwd {
            Some(cwd) => command.current_dir(cwd),
            None => command,
        }
    }
}

/// Programs draw for the terminal that the person has.
pub(super) fn with_terminal(
    mut env: std::collections::BTreeMap<String, String>,
    context: &Context,
    mode: Mode,
) -> std::collections::BTreeMap<String, String> {
    if let (Mode::Terminal, Some(terminal)) = (mode, context.environment.get("TERM")) {
        env.entry("TERM".to_owned())
            .or_insert_with(|| terminal.to_owned());
    }
    env
}

async fn attend(
    context: &Context,
    server: &crate::cli::ServerArgs,
    id: &str,
    what: What,
    mode: Mode,
) -> Outcome<u8> {
    let id = wire::sandbox_id(id)?;
    let mut signals = Signals::listen()?;
    let client = client(context, server).await?;
    let sandbox = client.sandbox(&id).connect().await;
    let sandbox = sandbox.map_err(wire::not_connected)?;
    let status = attach::run(what.command(&sandbox), mode, &mut signals).await;
    sandbox.close().await;
    Ok(exit_code(&status?))
}

/// The code to exit with, and a word about what a code cannot say.
pub(super) fn exit_code(status: &ExitStatus) -> u8 {
    if let Some(confidence) = status.oom {
        let surely = match confidence {
            OomConfidence::HighConfidence => "was",
            OomConfidence::LowConfidence => "may have been",
        };
        output::tell(&format!(
            "tombolo: the command {surely} killed because the sandbox ran out of memory; \
             give it more with --memory"
        ));
    }
    u8::try_from(status.code).unwrap_or(u8::MAX)
}

async fn extend(context: &Context, args: &ExtendArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let client = client(context, &args.server).await?;
    let granted = client.sandbox(&id).extend_timeout(args.duration).await;
    let granted = granted.map_err(wire::refused)?;
    if is_later_than_asked(granted, SystemTime::now(), args.duration) {
        output::tell("nothing changed: the sandbox was to live longer than that already");
    }
    let since = granted.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stop_at_ms = UnixMillis(0).plus(since);
    if args.json {
        return output::json(&StopAt { stop_at_ms });
    }
    output::data(&moment(stop_at_ms))
}

/// Whether a sandbox ends later than was asked for: an extension never makes
/// a life shorter.
fn is_later_than_asked(granted: SystemTime, now: SystemTime, asked: Duration) -> bool {
    granted
        .duration_since(now)
        .is_ok_and(|left| left > asked.saturating_add(CLOCKS_APART_MAX))
}

async fn kill(context: &Context, args: &KillArgs) -> Outcome<u8> {
    let mut ids = Vec::new();
    for id in &args.ids {
        ids.push(wire::sandbox_id(id)?);
    }
    let client = overseer(context, &args.server).await?;
    if args.all {
        let rows = client.sandboxes().running().all().await;
        let rows = rows.map_err(wire::refused)?;
        ids = rows.into_iter().map(|row| row.id).collect();
    }
    let client = &client;
    let results: Vec<_> = stream::iter(ids)
        .map(|id| async move {
            let killed = client.sandbox(&id).kill().await;
            (id, killed)
        })
        .buffered(KILLS_AT_ONCE)
        .collect()
        .await;
    let mut killed = Vec::new();
    let mut worst = OK;
    for (id, result) in results {
        match result {
            Ok(()) => killed.push(id),
            Err(error) => {
                let failure = wire::refused(error).context(format!("{id} is not ended"));
                worst = failure.code().code();
                output::tell(&failure.report());
            }
        }
    }
    if args.json {
        output::json(&json!({ "killed": killed }))?;
    } else {
        for id in killed {
            output::data(id.as_str())?;
        }
    }
    Ok(worst)
}
