//! `tombolo token …`: only the machine's owner may, because the server's
//! admin token is a file that only root reads.

use http::Method;
use tombolo_api::native::{CreateToken, CreatedToken, TOKENS_PATH, TokenKind, TokenRow};
use tombolo_diag::ExitCode;
use tombolo_ids::{OrganisationSlug, TokenId, UnixMillis};

use crate::cli::{CreateTokenArgs, TokenCommand};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::{local, output, wire};

pub(super) async fn token(context: &Context, command: TokenCommand) -> Outcome {
    match command {
        TokenCommand::Create(args) => create(context, &args).await,
        TokenCommand::List(args) => list(context, args.json).await,
        TokenCommand::Revoke(args) => revoke(context, &args.id).await,
    }
}

async fn create(context: &Context, args: &CreateTokenArgs) -> Outcome {
    let organisation: OrganisationSlug = args
        .organisation
        .parse()
        .map_err(|error| Failure::new(ExitCode::Usage, anyhow::Error::new(error)))?;
    let asked = CreateToken {
        name: args.name.clone(),
        organisation: Some(organisation),
        kind: TokenKind::Organisation,
    };
    let created: CreatedToken = local::admin(context)
        .await?
        .send(Method::POST, TOKENS_PATH, &asked)
        .await
        .map_err(wire::refused)?;
    if args.json {
        output::json(&created)
    } else {
        output::data(&created.token)
    }
}

async fn list(context: &Context, json: bool) -> Outcome {
    let rows: Vec<TokenRow> = local::admin(context)
        .await?
        .get(TOKENS_PATH)
        .await
        .map_err(wire::refused)?;
    if json {
        return output::json(&rows);
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.id.to_string(),
            row.name.clone(),
            row.organisation.to_string(),
            moment(Some(row.created_at_ms)),
            moment(row.revoked_at_ms),
        ]
    });
    let head = ["ID", "NAME", "ORGANISATION", "CREATED", "REVOKED"];
    output::table(&head, cells.collect())
}

fn moment(at: Option<UnixMillis>) -> String {
    at.map_or_else(|| "-".to_owned(), super::sandbox::moment)
}

async fn revoke(context: &Context, id: &str) -> Outcome {
    let id: TokenId = id.parse().map_err(|error| {
        Failure::new(ExitCode::Usage, anyhow::Error::new(error))
            .hint("\"tombolo token list\" shows the ids")
    })?;
    local::admin(context)
        .await?
        .delete(&format!("{TOKENS_PATH}/{id}"))
        .await
        .map_err(wire::refused)
}
