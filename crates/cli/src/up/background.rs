//! A server in the background, for `tombolo run` where none runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tombolo_diag::ExitCode;
use tombolo_proc::{Command, Detached};

use super::place::{self, Answer, make_room};
use crate::commands::block_on;
use crate::config::{Flags, Isolation, Settings, keys};
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::state::Running;
use crate::{local, output, provision};
use tombolo_client::Client;

/// How long a background server may take once everything is there.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// How long one that makes room may take to end.
const END_TIMEOUT: Duration = Duration::from_mins(1);
/// How often to look whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much of its log to show when it fails.
const LOG_LINES: usize = 12;

/// Variables that the server and what it starts may need, besides our own.
const PASSED_ON: [&str; 5] = [
    "HOME",
    "TMPDIR",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The server of the state directory, started if there is none, and in the place of one
/// that nobody needs if that was given other settings.
pub(crate) fn ensure_running(context: &Context, isolation: Option<Isolation>) -> Outcome<Client> {
    let mut flags = Flags::new();
    if let Some(isolation) = isolation {
        flags.insert(keys::ISOLATION.name, isolation.name().to_owned());
    }
    let asked = flags.clone();
    if let Some(client) = block_on(suitable(context, &asked, isolation))? {
        return Ok(client);
    }
    crate::context::require_root("starting a server for \"tombolo run\"")?;
    let settings = context.settings(&flags)?;
    let free = "127.0.0.1:0".to_owned();
    // Nobody asked for an address and nobody will type it, so another server's is no
    // obstacle.
    for (key, listen) in [
        (&keys::LISTEN, settings.listen),
        (&keys::INGRESS_LISTEN, settings.ingress.listen),
        (&keys::SSH_LISTEN, settings.ssh.listen),
    ] {
        if listen.to_string() == key.default.to_string() {
            flags.insert(key.name, free.clone());
        }
    }
    let settings = context.settings(&flags)?;
    context
        .state
        .prepare(&settings)
        .map_err(super::state_failure)?;
    // Here rather than in the background, where nobody would see it happen.
    drop(provision::provision(context, &settings)?);
    // Meanwhile another may have started one.
    if let Some(client) = block_on(suitable(context, &asked, isolation))? {
        return Ok(client);
    }
    let started = start(context, &settings, &flags)?;
    block_on(wait(context, &asked, started))
}

/// The server that runs, if it may be used for what was asked. One that may not makes
/// room if nobody needs it, and then there is none.
async fn suitable(
    context: &Context,
    asked: &Flags,
    isolation: Option<Isolation>,
) -> Outcome<Option<Client>> {
    let Some((running, client)) = local::running(context).await? else {
        return Ok(None);
    };
    let others = not_followed(context, asked, &running)?;
    if others.is_empty() && !is_of_other_isolation(&client, isolation).await {
        return Ok(Some(client));
    }
    let answer = make_room(context, &running).await?;
    match &answer {
        Answer::Ends | Answer::Silent => {
            wait_for_end(context, &running).await?;
            // Where it did not end, its lock says so to the one that is started.
            Ok(None)
        }
        // Whoever uses it says that its isolation is another.
        _ if others.is_empty() => Ok(Some(client)),
        answer => Err(differs(context, &others, &running, answer)),
    }
}

/// Whether it runs its sandboxes in another way than the one that was insisted on.
async fn is_of_other_isolation(client: &Client, wanted: Option<Isolation>) -> bool {
    let Some(wanted) = wanted.filter(|wanted| *wanted != Isolation::Auto) else {
        return false;
    };
    let node = client.info().await.ok().and_then(|info| info.node);
    node.is_some_and(|node| node.isolation != wanted.name())
}

/// Waits until a server that said that it is ending has ended.
pub(crate) async fn outlast(context: &Context) -> Outcome {
    match context.state.running()? {
        Some(running) => wait_for_end(context, &running).await,
        None => Ok(()),
    }
}

async fn wait_for_end(context: &Context, running: &Running) -> Outcome {
    let deadline = Instant::now() + END_TIMEOUT;
    // The last that it does is to forget where it was; the number of its process may
    // stay for as long as nobody asks what became of that.
    let is_there = || Ok::<_, Failure>(context.state.running()?.as_ref() == Some(running));
    while is_there()? && local::is_alive(running.pid) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// What a configuration that a person names says and the server was not given: it is
/// not left out in silence because a server runs already. `asked` are the flags that
/// they gave besides.
fn not_followed(context: &Context, asked: &Flags, running: &Running) -> Outcome<Vec<String>> {
    let (Some(named), Some(theirs)) = (&context.config_file, &running.settings) else {
        return Ok(Vec::new());
    };
    Ok(context.settings(asked)?.not_followed(theirs, named)?)
}

fn differs(context: &Context, others: &[String], running: &Running, answer: &Answer) -> Failure {
    let named = context.config_file.as_deref().unwrap_or(Path::new("-"));
    let what = format!(
        "the server that runs was not given what {} says of {}",
        named.display(),
        others.join(", ")
    );
    let hint = match answer {
        Answer::Needed(sandboxes) if !sandboxes.is_empty() => format!(
            "another takes its place when it has no sandboxes; it has {}; wait until they have \
             ended, or end them all by: tombolo sandbox kill --all",
            place::named(sandboxes)
        ),
        Answer::Needed(_) => "a sandbox is just being created or ended there; try again".to_owned(),
        _ => format!("stop it, and all its sandboxes, by: kill {}", running.pid),
    };
    Failure::message(ExitCode::Config, what).hint(hint)
}

/// What says which other server this command would talk to is not for the one
/// that is started instead.
fn is_for_server(name: &&str) -> bool {
    ![keys::ENDPOINT_VARIABLE, keys::TOKEN_VARIABLE].contains(name)
}

/// A server that was started, and where in the log its own words begin.
struct Started {
    process: Detached,
    log_start: u64,
}

/// Starts it. If another does at the same moment, the lock of the state
/// directory lets one of the two go on, and either is as good.
fn start(context: &Context, settings: &Settings, flags: &Flags) -> Outcome<Started> {
    let log_path = context.state.log_file();
    let log = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)?;
    let log_start = log.metadata()?.len();
    let mut command = Command::new(this_program()?)
        // Not the person's whole environment: there may be secrets in it, and
        // the server outlives this command.
        .pass_env(
            context
                .environment
                .names(keys::PREFIX)
                .filter(is_for_server),
        )
        .pass_env(PASSED_ON)
        .arg("up")
        .arg("--ephemeral")
        .arg("--state-dir")
        .arg(context.state.root());
    if let Some(config) = &context.config_file {
        command = command.arg("--config").arg(std::path::absolute(config)?);
    }
    for key in keys::KEYS {
        if let Some(value) = flags.get(key.name) {
            command = command.arg(key.flag()).arg(value);
        }
    }
    tracing::debug!(listen = %settings.listen, "starting a server in the background");
    let process = command.spawn_detached(None, None, Some(log.into_parts().0))?;
    Ok(Started { process, log_start })
}

/// This very program, even if its file has been replaced since it started.
fn this_program() -> Outcome<PathBuf> {
    let named = std::env::current_exe().or_fail(ExitCode::System)?;
    if named.exists() {
        return Ok(named);
    }
    Ok(PathBuf::from(format!("/proc/{}/exe", std::process::id())))
}

async fn wait(context: &Context, asked: &Flags, mut started: Started) -> Outcome<Client> {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if let Some((running, client)) = local::running(context).await.unwrap_or_default() {
            if running.pid != started.process.id() {
                let others = not_followed(context, asked, &running)?;
                if !others.is_empty() {
                    return Err(differs(context, &others, &running, &Answer::Stays));
                }
            }
            return Ok(client);
        }
        // One that ended because another was there first, or in order because it made
        // room for another, leaves that other to wait for.
        let ended = started.process.try_wait()?;
        let another = Some(i32::from(ExitCode::TryAgain.code()));
        if ended.is_some_and(|status| !status.success() && status.code() != another) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(failed(context, started.log_start))
}

fn failed(context: &Context, log_start: u64) -> Failure {
    let path = context.state.log_file();
    let log = fs_err::read(&path).unwrap_or_default();
    let start = usize::try_from(log_start)
        .unwrap_or(usize::MAX)
        .min(log.len());
    let text = String::from_utf8_lossy(&log[start..]).into_owned();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        output::tell(&format!("  | {}", output::printable(line)));
    }
    Failure::message(
        ExitCode::Unavailable,
        "the server in the background did not start",
    )
    .hint(format!(
        "start \"tombolo up\" in another terminal and watch it; its log is {}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::any;

    use super::*;
    use crate::environment::Environment;
    use crate::state::StateDir;

    /// Whoever loses the race for the state directory is given the other's server
    /// only if that was given the same configuration.
    #[tokio::test]
    async fn the_server_of_another_who_was_faster_is_looked_at_too() {
        let directory = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let healthy = Router::new().fallback(any(async || "well"));
        tokio::spawn(async move { axum::serve(listener, healthy).await });
        let config = directory.path().join("mine.toml");
        fs_err::write(&config, "pool_size = 7\n").unwrap();
        fs_err::create_dir(directory.path().join("run")).unwrap();
        let mut context = Context {
            state: StateDir::new(directory.path().to_owned()),
            environment: Environment::of(&[]),
            config_file: None,
            log: None,
        };
        fs_err::write(context.state.token_file(), "ddo_t").unwrap();
        let theirs = context.settings(&Flags::new()).unwrap();
        context.config_file = Some(config);
        // Ours ends like one that found the state directory taken, or is it.
        let ends = Command::new("sh").args(["-c", "exit 75"]);
        for is_ours in [false, true] {
            let process = ends.spawn_detached(None, None, None).unwrap();
            let pid = if is_ours {
                process.id()
            } else {
                std::process::id()
            };
            let running = Running {
                url: url.clone(),
                pid,
                server_pid: 1,
                node_pid: 1,
                egress_pid: None,
                version: "0".to_owned(),
                settings: Some(theirs.clone()),
            };
            context.state.write_running(&running).unwrap();
            let started = Started {
                process,
                log_start: 0,
            };
            let waited = wait(&context, &Flags::new(), started).await;
            match waited {
                Ok(_client) => assert!(is_ours),
                Err(failure) => {
                    assert!(!is_ours, "{}", failure.report());
                    assert_eq!(failure.code(), ExitCode::Config);
                    assert!(failure.report().contains("pool_size"));
                }
            }
        }
    }
}
