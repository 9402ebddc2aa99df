//! `tombolo sandbox expose`, `exposures` and `unexpose`: ports that are reached over HTTP.

use http::Method;
use tombolo_api::exposures::{CreateExposure, CreatedExposure, ExposureRow};
use tombolo_api::native::SANDBOXES_PATH;
use tombolo_diag::ExitCode;
use tombolo_ids::ExposureName;

use super::sandbox::{moment, overseer};
use crate::cli::{ExposeArgs, ExposuresArgs, UnexposeArgs};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::{output, wire};

fn path_of(id: &str) -> Outcome<String> {
    let id = wire::sandbox_id(id)?;
    Ok(format!("{SANDBOXES_PATH}/{id}/exposures"))
}

pub(super) async fn expose(context: &Context, args: &ExposeArgs) -> Outcome {
    let path = path_of(&args.id)?;
    let asked = CreateExposure {
        port: args.port,
        pid: args.pid,
        private: args.private,
    };
    let client = overseer(context, &args.server).await?;
    let created: CreatedExposure = client
        .send(Method::POST, &path, &asked)
        .await
        .map_err(wire::refused)?;
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

/// Where a browser is let in: the token of a private exposure is a part of it.
pub(super) fn browser_address(created: &CreatedExposure) -> String {
    let url = &created.row.url;
    match &created.access_token {
        Some(token) => format!("{url}/?tombolo_access={token}"),
        None => url.clone(),
    }
}

pub(super) async fn list(context: &Context, args: &ExposuresArgs) -> Outcome {
    let path = path_of(&args.id)?;
    let client = overseer(context, &args.server).await?;
    let rows: Vec<ExposureRow> = client.get(&path).await.map_err(wire::refused)?;
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

pub(super) async fn remove(context: &Context, args: &UnexposeArgs) -> Outcome {
    let path = path_of(&args.id)?;
    let name: ExposureName = args.name.parse().map_err(|error| {
        Failure::new(ExitCode::Usage, anyhow::Error::new(error)).hint(format!(
            "\"tombolo sandbox exposures {}\" shows the addresses, which begin with it",
            args.id
        ))
    })?;
    let client = overseer(context, &args.server).await?;
    let removed = client.delete(&format!("{path}/{name}")).await;
    removed.map_err(wire::refused)
}
