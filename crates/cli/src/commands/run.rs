//! `tombolo run`: one sandbox, one command, its output and exit code.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo_diag::ExitCode;

use super::{block_on, sandbox};
use crate::attach::{self, Mode, Signals};
use crate::cli::RunArgs;
use crate::config::{Given, Isolation, Value, keys};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::network::Network;
use crate::{local, output, up, wire};
use tombolo_api::config::NewSandbox;
use tombolo_api::error::ErrorCode;
use tombolo_client::{Client, ConnectError, Sandbox};

/// The exit code when the time is up, as `timeout(1)` has it.
const TIMED_OUT: u8 = 124;
/// How many servers are tried that end before they have made a sandbox.
const TRIES_MAX: u32 = 3;
/// How much later than the command's own deadline the server's backstop is.
const BACKSTOP: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context, args: &RunArgs) -> Outcome<u8> {
    let isolation = args.isolation.as_deref().map(parse_isolation).transpose()?;
    // What was typed is checked before anything is made.
    let env = wire::variables(&args.env, &context.environment)?;
    let network = Network::read(&args.network, &env, &context.environment)?;
    let named = args
        .server
        .endpoint
        .as_deref()
        .or_else(|| context.environment.get(keys::ENDPOINT_VARIABLE));
    let config = new_sandbox(args, network);
    let mut tries_left = TRIES_MAX;
    loop {
        let client = match named {
            Some(_) => block_on(local::connect(context, named))?,
            None => up::ensure_running(context, isolation)?,
        };
        let ran = block_on(async {
            check_isolation(&client, isolation).await?;
            in_new_sandbox(context, &client, config.clone(), args, &env).await
        })?;
        tries_left -= 1;
        match ran {
            Ran::Done(code) => return Ok(code),
            Ran::ServerEnds(error) if named.is_none() && tries_left > 0 => {
                tracing::debug!(%error, "the server is ending, and another is used");
                if error.refusal().is_some() {
                    block_on(up::outlast(context))?;
                }
            }
            Ran::ServerEnds(error) => return Err(wire::not_connected(error)),
        }
    }
}

/// What came of a command.
enum Ran {
    /// It ran, and this is our exit code.
    Done(u8),
    /// It did not: the server makes no more sandboxes, or has gone.
    ServerEnds(ConnectError),
}

/// Whether a server was found that ends before it has made a sandbox. One that breaks off
/// may have begun to: it takes down what nobody waits for, and nothing has run in it.
fn is_ending(error: &ConnectError) -> bool {
    let refusal = error.refusal();
    refusal.is_some_and(|refusal| wire::is(refusal, ErrorCode::ServerEnding))
        || matches!(
            error,
            ConnectError::Unreachable { .. } | ConnectError::Http { .. }
        )
}

fn new_sandbox(args: &RunArgs, network: Network) -> NewSandbox {
    NewSandbox {
        memory_mb: args.memory,
        // Without a limit the sandbox lives as long as this connection, so it
        // ends even if this command is killed.
        timeout: args
            .timeout
            .map(|timeout| sandbox::lifetime(timeout + BACKSTOP)),
        allow_net: network.allow_net,
        secrets: network.secrets,
        egress_policy: network.egress_policy,
        ..NewSandbox::default()
    }
}

fn parse_isolation(given: &str) -> Outcome<Isolation> {
    match keys::ISOLATION.kind.parse(&Given::Text(given.to_owned())) {
        Ok(Value::Isolation(isolation)) => Ok(isolation),
        _ => Err(Failure::message(
            ExitCode::Usage,
            format!("--isolation cannot be \"{given}\""),
        )
        .hint(format!("it takes {}", keys::ISOLATION.kind))),
    }
}

/// A person who insists on one kind must not silently get the other.
async fn check_isolation(client: &Client, wanted: Option<Isolation>) -> Outcome {
    let wanted = match wanted {
        None | Some(Isolation::Auto) => return Ok(()),
        Some(wanted) => wanted.name(),
    };
    let info = client.info().await.map_err(wire::refused)?;
    match info.node {
        Some(node) if node.isolation == wanted => Ok(()),
        Some(node) => Err(Failure::message(
            ExitCode::Unavailable,
            format!(
                "the server runs its sandboxes with isolation {}, not {wanted}: {}",
                node.isolation, node.isolation_reason
            ),
        )
        .hint(format!(
            "stop it and start \"tombolo up --isolation {wanted}\"; \"tombolo doctor\" says what \
             this machine can do"
        ))),
        None => Err(
            Failure::message(ExitCode::Unavailable, "the server has lost its node")
                .hint("try again in a moment"),
        ),
    }
}

async fn in_new_sandbox(
    context: &Context,
    client: &Client,
    config: NewSandbox,
    args: &RunArgs,
    env: &BTreeMap<String, String>,
) -> Outcome<Ran> {
    let mode = Mode::choose(args.tty, args.no_tty);
    let mut signals = Signals::listen()?;
    let created = tokio::select! {
        created = sandbox::made(config, client) => created,
        code = signals.end() => return Ok(Ran::Done(code)),
    };
    let created = match created {
        Ok(created) => created,
        Err(error) if is_ending(&error) => return Ok(Ran::ServerEnds(error)),
        Err(error) => return Err(wire::not_connected(error)),
    };
    sandbox::warn(created.warnings());
    let what = sandbox::What {
        words: args.command.clone(),
        env: sandbox::with_terminal(env.clone(), context, mode),
        cwd: args.cwd.clone(),
    };
    let attended = attach::run(what.command(&created), mode, &mut signals);
    let finished = match args.timeout {
        None => Some(attended.await),
        Some(limit) => tokio::time::timeout(limit, attended).await.ok(),
    };
    throw_away(created).await;
    if let Some(status) = finished {
        return Ok(Ran::Done(sandbox::exit_code(&status?)));
    }
    let limit = humantime::format_duration(args.timeout.unwrap_or_default());
    output::tell(&format!("tombolo: the command was ended after {limit}"));
    Ok(Ran::Done(TIMED_OUT))
}

/// Ends the sandbox. The command's own outcome is what matters by now.
async fn throw_away(sandbox: Sandbox) {
    if let Err(error) = sandbox.clone().kill().await {
        tracing::warn!(%error, "the sandbox could not be ended; the server ends it by itself");
        sandbox.close().await;
    }
}
