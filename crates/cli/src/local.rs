//! Finding the server to talk to: the one that was named, or the one that
//! runs on the state directory.

use tombolo_diag::ExitCode;

use crate::client::{Endpoint, RestClient, Token};
use crate::config::keys;
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::state::{self, Running};

/// A server that answers, and the token to use with it.
pub(crate) async fn connect(context: &Context, endpoint: Option<&str>) -> Outcome<RestClient> {
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

fn named(context: &Context, endpoint: &str) -> Outcome<RestClient> {
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
    Ok(RestClient::new(endpoint, Token::new(token)))
}

/// The server of the state directory, if it answers.
pub(crate) async fn running(context: &Context) -> Outcome<Option<(Running, RestClient)>> {
    let Some(running) = context.state.running()? else {
        return Ok(None);
    };
    let endpoint = Endpoint::parse(&running.url)?;
    let anonymous = RestClient::new(endpoint.clone(), Token::new(""));
    if !anonymous.healthy().await {
        return Ok(None);
    }
    let token = read_token(&context.state.token_file())?;
    Ok(Some((running, RestClient::new(endpoint, token))))
}

/// A client that may do what only the machine's owner may.
pub(crate) async fn admin(context: &Context) -> Outcome<RestClient> {
    let Some((running, _)) = running(context).await? else {
        return Err(no_server(context));
    };
    let endpoint = Endpoint::parse(&running.url)?;
    let token = read_token(&context.state.admin_token_file())?;
    Ok(RestClient::new(endpoint, token))
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
