//! `tombolo sandbox expose`, `exposures` and `unexpose`: ports that are reached over HTTP.

use tombolo_api::exposures::CreatedExposure;
use tombolo_client::{SandboxRef, Target};
use tombolo_diag::ExitCode;
use tombolo_ids::ExposureName;

use super::sandbox::{moment, overseer};
use crate::cli::{ExposeArgs, ExposuresArgs, UnexposeArgs};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::{output, wire};

pub(super) async fn expose(context: &Context, args: &ExposeArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let target = match (args.port, args.pid) {
        (None, Some(pid)) => Target::Process(pid),
        // Without a process there is a port: clap insists on one of the two.
        (port, _) => Target::Port(port.map_or(0, std::num::NonZero::get)),
    };
    let client = overseer(context, &args.server).await?;
    let created = create(&client.sandbox(&id), target, args.private).await?;
    if args.json {
        return output::json(&created);
    }
    let url = &created.row.url;
    output::data(url)?;
    if let Some(token) = &created.access_token {
        output::data(&browser_address(&created))?;
        output::tell(&format!(
            "tombolo: this is the only time its token is shown. Clients other than browsers send it \
             as the header: x-tombolo-access: {token}"
        ));
    }
    Ok(())
}

/// Exposes a port, to all or to those who have a token.
pub(super) async fn create(
    sandbox: &SandboxRef,
    target: Target,
    private: bool,
) -> Outcome<CreatedExposure> {
    if !private {
        let row = sandbox.expose_http(target).await.map_err(wire::refused)?;
        return Ok(CreatedExposure {
            access_token: None,
            row,
        });
    }
    let made = sandbox.expose_http_privately(target).await;
    let made = made.map_err(wire::refused)?;
    Ok(CreatedExposure {
        access_token: Some(made.access_token.reveal().to_owned()),
        row: made.exposure,
    })
}

/// Where a browser is let in: the token of a private exposure is a part of it.
pub(super) fn browser_address(created: &CreatedExposure) -> String {
    let url = &created.row.url;
    match &created.access_token {
        Some(token) => format!("{url}/?tombolo_access={token}"),
        None => url.clone(),
    }
}

pub(super) async fn list(context: &Context, args: &ExposuresArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let client = overseer(context, &args.server).await?;
    let rows = client.sandbox(&id).exposures().await;
    let rows = rows.map_err(wire::refused)?;
    if args.json {
        return output::json(&rows);
    }
    let cells = rows.iter().map(|row| {
        let target = match (row.port, row.pid) {
            (Some(port), _) => format!("port {port}"),
            (None, Some(pid)) => format!("process {pid}"),
            (None, None) => "nothing so far".to_owned(),
        };
        let access = if row.private { "private" } else { "public" };
        vec![
            row.url.clone(),
            target,
            access.to_owned(),
            moment(row.created_at_ms),
        ]
    });
    output::table(
        &["ADDRESS", "LEADS TO", "ACCESS", "CREATED"],
        cells.collect(),
    )
}

/// The name in an address, or what was given, if it is none.
fn name_in(given: &str) -> &str {
    let host = given.strip_prefix("https://").unwrap_or(given);
    host.split(['.', ':', '/']).next().unwrap_or(host)
}

pub(super) async fn remove(context: &Context, args: &UnexposeArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let name: ExposureName = name_in(&args.name).parse().map_err(|error| {
        Failure::new(ExitCode::Usage, anyhow::Error::new(error)).hint(format!(
            "\"tombolo sandbox exposures {}\" shows the addresses, which begin with it",
            args.id
        ))
    })?;
    let client = overseer(context, &args.server).await?;
    let removed = client.sandbox(&id).unexpose(&name).await;
    removed.map_err(wire::refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposure_is_named_by_its_address_too() {
        let name = "0123456789abcdef0123456789abcdef";
        for given in [
            name.to_owned(),
            format!("https://{name}.tombolo.localhost:8443"),
            format!("https://{name}.box.example.com/?folder=/home/app"),
            format!("{name}.tombolo.localhost"),
        ] {
            assert_eq!(name_in(&given), name, "{given}");
        }
        assert_eq!(name_in("nonsense"), "nonsense");
        assert_eq!(name_in(""), "");
    }
}
