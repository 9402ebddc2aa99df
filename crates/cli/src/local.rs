//! Finding the server to talk to: the one that was named, or the one that
//! runs on the state directory.

use std::time::Duration;

use tokio::time::Instant;
use tombolo_diag::ExitCode;

use crate::config::keys;
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::state::{self, Running};
use tombolo_client::{Client, Endpoint, Token};

/// How long a server that died may take until it answers again.
const RESTART_PATIENCE: Duration = Duration::from_secs(15);
/// How often to look whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A server that answers, and the token to use with it.
pub(crate) async fn connect(context: &Context, endpoint: Option<&str>) -> Outcome<Client> {
    if let Some(endpoint) = endpoint {
        return named(context, endpoint);
    }
    match running(context).await? {
        Some((_, client)) => Ok(client),
        None => Err(no_server(context)),
    }
}

fn no_server(context: &Context) -> Failure {
    let root = context.state.root().display();
    Failure::message(ExitCode::Unavailable, format!("no server runs on {root}")).hint(format!(
        "start one with \"tombolo up\", or name another with {} and {}",
        keys::ENDPOINT_VARIABLE,
        keys::TOKEN_VARIABLE
    ))
}

fn named(context: &Context, endpoint: &str) -> Outcome<Client> {
    let endpoint = Endpoint::parse(endpoint).or_fail(ExitCode::Usage)?;
    let token = context
        .environment
        .get(keys::TOKEN_VARIABLE)
        .ok_or_else(|| {
            Failure::message(
                ExitCode::NoPermission,
                format!("there is no token for {endpoint}"),
            )
            .hint(format!(
                "set {} to one made by \"tombolo token create\"",
                keys::TOKEN_VARIABLE
            ))
        })?;
    Ok(Client::new(endpoint, Token::new(token)))
}

/// The server of the state directory, if it answers. One that has just died
/// is waited for as long as its supervisor lives to start it again.
pub(crate) async fn running(context: &Context) -> Outcome<Option<(Running, Client)>> {
    let Some(running) = context.state.running()? else {
        return Ok(None);
    };
    if !is_alive(running.pid) {
        // What may still answer there is ending.
        return Ok(None);
    }
    let endpoint = Endpoint::parse(&running.url)?;
    let anonymous = Client::new(endpoint.clone(), Token::new(""));
    let deadline = Instant::now() + RESTART_PATIENCE;
    while !anonymous.healthy().await {
        if !is_alive(running.pid) || Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let token = read_token(&context.state.token_file())?;
    Ok(Some((running, Client::new(endpoint, token))))
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    // A process of somebody else's is alive all the same.
    pid.is_some_and(|pid| {
        let tested = rustix::process::test_kill_process(pid);
        !matches!(tested, Err(rustix::io::Errno::SRCH))
    })
}

/// A client that may do what only the machine's owner may.
pub(crate) async fn admin(context: &Context) -> Outcome<Client> {
    let Some((running, _)) = running(context).await? else {
        return Err(no_server(context));
    };
    let endpoint = Endpoint::parse(&running.url)?;
    let token = read_token(&context.state.admin_token_file())?;
    Ok(Client::new(endpoint, token))
}

pub(crate) fn read_token(path: &std::path::Path) -> Outcome<Token> {
    match state::read_if_there(path) {
        Ok(Some(text)) => Ok(Token::new(&text)),
        Ok(None) => Err(Failure::message(
            ExitCode::Unavailable,
            format!("{} is not there yet", path.display()),
        )
        .hint("wait until \"tombolo up\" says that it is up, or start it again")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failure::new(ExitCode::NoPermission, error).hint(format!(
                "run this as root, or set {} and {}",
                keys::ENDPOINT_VARIABLE,
                keys::TOKEN_VARIABLE
            )))
        }
        Err(error) => Err(error.into()),
    }
}
