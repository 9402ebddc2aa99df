//! `tombolo sandbox code`: VS Code of a sandbox, by its address.

use http::Method;
use tombolo_api::exposures::{CreateExposure, CreatedExposure};
use tombolo_api::native::SANDBOXES_PATH;
use tombolo_api::rpc::{VscodeParams, VscodeResult, methods};

use super::{expose, sandbox};
use crate::cli::CodeArgs;
use crate::context::Context;
use crate::failure::{OrFail as _, Outcome};
use crate::{output, wire};
use tombolo_client::Connection;

pub(super) async fn code(context: &Context, args: CodeArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let client = sandbox::client(context, &args.server).await?;
    let connection = Connection::connect(client.endpoint(), client.token(), id.as_str())
        .await
        .map_err(wire::not_connected)?;
    let params = VscodeParams {
        path: args.folder,
        extensions: Some(args.extension),
        preview: args.preview,
        ..VscodeParams::default()
    };
    output::tell("starting VS Code ...");
    let started = connection.call(methods::VSCODE, &params).await;
    // Its output is nobody's from here on, and is drained by the server.
    connection.close().await;
    let started: VscodeResult = started.while_doing("VS Code does not run")?;
    let asked = CreateExposure {
        port: Some(started.port),
        private: args.private,
        ..CreateExposure::default()
    };
    let created: CreatedExposure = client
        .send(
            Method::POST,
            &format!("{SANDBOXES_PATH}/{id}/exposures"),
            &asked,
        )
        .await
        .map_err(wire::refused)?;
    if args.json {
        return output::json(&created);
    }
    output::data(&expose::browser_address(&created))
}
