//! The two tokens of a machine: the admin token, new at each start and kept
//! in a file that only root reads; and the token of the default organisation,
//! which lasts, so that a person need not create one.

use http::Method;
use tombolo_api::native::{CreateToken, CreatedToken, TOKENS_PATH};
use tombolo_server::TokenHash;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local;
use crate::state::{self, StateDir};
use tombolo_client::{Client, Endpoint, Token};

/// The random part of the admin token; more than anybody can guess.
const ADMIN_TOKEN_CHARS: usize = 40;
/// What the default token is called in the list of tokens.
const DEFAULT_TOKEN_NAME: &str = "default";

/// Makes a new admin token, keeps it for `tombolo token`, and answers its hash
/// for the server.
pub(super) fn make_admin(state: &StateDir) -> Outcome<String> {
    let token = format!("tma_{}", tombolo_ids::random_text(ADMIN_TOKEN_CHARS)?);
    state::write_private(&state.admin_token_file(), &token)?;
    Ok(TokenHash::of(&token).to_string())
}

/// The client of the default organisation, with the token that was kept if it
/// still opens the server.
pub(crate) async fn ensure_default(context: &Context) -> Outcome<Client> {
    let Some(running) = context.state.running()? else {
        return Err(Failure::message(
            tombolo_diag::ExitCode::Internal,
            "the server is not written down",
        ));
    };
    let endpoint = Endpoint::parse(&running.url)?;
    if let Some(kept) = state::read_if_there(&context.state.token_file())? {
        let client = Client::new(endpoint.clone(), Token::new(&kept));
        match client.sandboxes().limit(1).all().await {
            Ok(_rows) => return Ok(client),
            // Revoked, or of a database that is not there any more.
            Err(error) if error.refusal().is_some_and(|r| r.status.as_u16() == 401) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let asked = CreateToken {
        name: DEFAULT_TOKEN_NAME.to_owned(),
        ..CreateToken::default()
    };
    let created: CreatedToken = admin(context, &endpoint)?
        .send(Method::POST, TOKENS_PATH, &asked)
        .await?;
    state::write_private(&context.state.token_file(), &created.token)?;
    Ok(Client::new(endpoint, Token::new(&created.token)))
}

fn admin(context: &Context, endpoint: &Endpoint) -> Outcome<Client> {
    let token = local::read_token(&context.state.admin_token_file())?;
    Ok(Client::new(endpoint.clone(), token))
}
