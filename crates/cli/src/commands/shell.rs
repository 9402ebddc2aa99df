//! `tombolo sandbox shell` and `tombolo sandbox ps`: terminals that are left and
//! come back to.

use std::collections::BTreeMap;

use serde_json::json;
use tombolo_client::{Process, ProcessRow, Sandbox, Stdio};
use tombolo_diag::ExitCode;
use tombolo_ids::SandboxId;

use super::OK;
use super::sandbox::{What, client, exit_code, with_terminal};
use crate::attach::{self, Mode, Signals};
use crate::cli::{PsArgs, ServerArgs, ShellArgs};
use crate::context::Context;
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::{output, terminal, wire};

pub(super) async fn shell(context: &Context, args: ShellArgs) -> Outcome<u8> {
    if !terminal::is_attached() {
        return Err(
            Failure::message(ExitCode::Usage, "a shell needs a terminal at both ends").hint(
                format!(
                    "for a script, use \"tombolo sandbox exec {} -- bash -s\"",
                    args.id
                ),
            ),
        );
    }
    let id = wire::sandbox_id(&args.id)?;
    let mut signals = Signals::listen()?;
    let sandbox = connect(context, &args.server, &id).await?;
    let process = begin(&sandbox, context, args).await?;
    let back = format!("tombolo sandbox shell {id} --attach {}", process.pid());
    output::tell("tombolo: Ctrl-P Ctrl-Q leaves this terminal and lets its program run on");
    let stayed = attach::stay(process, &mut signals).await;
    sandbox.close().await;
    match stayed {
        Ok(Some(status)) => Ok(exit_code(&status)),
        Ok(None) => {
            output::tell(&format!("\ntombolo: it runs on; come back by: {back}"));
            Ok(OK)
        }
        Err(failure) => Err(failure.hint(format!("if it runs on, come back by: {back}"))),
    }
}

async fn connect(context: &Context, server: &ServerArgs, id: &SandboxId) -> Outcome<Sandbox> {
    let client = client(context, server).await?;
    let sandbox = client.sandbox(id).connect().await;
    sandbox.map_err(wire::not_connected)
}

async fn begin(sandbox: &Sandbox, context: &Context, args: ShellArgs) -> Outcome<Process> {
    if let Some(pid) = args.attach {
        let attached = sandbox.process(pid).attach(terminal::size()).await;
        return attached.map_err(|error| {
            let failure = Failure::new(ExitCode::Failure, error);
            failure.hint(format!(
                "\"tombolo sandbox ps {}\" shows what runs on a terminal",
                args.id
            ))
        });
    }
    let what = What {
        words: vec!["bash".to_owned(), "-l".to_owned()],
        env: with_terminal(BTreeMap::new(), context, Mode::Terminal),
        cwd: args.cwd,
    };
    let shell = what.command(sandbox).stderr(Stdio::Piped);
    Ok(shell.terminal(terminal::size()).spawn().await?)
}

pub(super) async fn list(context: &Context, args: &PsArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let sandbox = connect(context, &args.server, &id).await?;
    let listed = sandbox.processes().await;
    sandbox.close().await;
    let mut rows = listed.while_doing("the processes cannot be listed")?;
    rows.retain(|row| args.all || row.running);
    if args.json {
        let rows = rows.iter().map(|row| {
            json!({
                "pid": row.pid,
                "command": row.command,
                "running": row.running,
                "terminal": row.has_terminal,
            })
        });
        return output::json(&rows.collect::<Vec<_>>());
    }
    let head = ["PID", "STATE", "TERMINAL", "COMMAND"];
    output::table(&head, rows.iter().map(cells).collect())
}

fn cells(row: &ProcessRow) -> Vec<String> {
    let word = |is: bool, yes: &str, no: &str| if is { yes } else { no }.to_owned();
    vec![
        row.pid.to_string(),
        word(row.running, "running", "ended"),
        word(row.has_terminal, "yes", "no"),
        output::printable(&row.command),
    ]
}
