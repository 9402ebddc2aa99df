//! `tombolo sandbox code`: VS Code of a sandbox, by its address.

use super::{expose, sandbox};
use crate::cli::CodeArgs;
use crate::context::Context;
use crate::failure::Outcome;
use crate::{output, wire};
use tombolo_client::{Signal, Target};

pub(super) async fn code(context: &Context, args: CodeArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let client = sandbox::client(context, &args.server).await?;
    let sandbox = client.sandbox(&id).connect().await;
    let sandbox = sandbox.map_err(wire::not_connected)?;
    let mut command = sandbox.vscode(args.folder);
    for extension in args.extension {
        command = command.extension(extension);
    }
    if let Some(preview) = args.preview {
        command = command.preview(preview);
    }
    output::tell("starting VS Code ...");
    let started = match command.start().await {
        Ok(started) => started,
        Err(error) => {
            sandbox.close().await;
            return Err(error.into());
        }
    };
    let port = Target::Port(started.port);
    let created = expose::create(&sandbox, port, args.private).await;
    if created.is_err() {
        // Nobody would find it, and it takes much memory.
        if let Err(error) = started.process.kill(Signal::Term).await {
            tracing::debug!(%error, "VS Code has ended already");
        }
    }
    // Before it is dropped here, which would close its output: that is nobody's from here
    // on, and is drained by the server.
    sandbox.close().await;
    let created = created?;
    if args.json {
        return output::json(&created);
    }
    output::data(&expose::browser_address(&created))
}
