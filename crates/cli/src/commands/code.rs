//! `tombolo sandbox code`: VS Code of a sandbox, by its address.

use super::{expose, sandbox};
use crate::cli::CodeArgs;
use crate::context::Context;
use crate::failure::Outcome;
use crate::{output, wire};
use tombolo_api::exposures::CreatedExposure;
use tombolo_client::{Sandbox, SandboxRef, Signal, Target};

/// How the command line of VS Code in a sandbox is known (`crates/server/src/rpc/vscode.rs`).
const ENTRY: &str = "/code-server/out/node/entry.js";

pub(super) async fn code(context: &Context, args: CodeArgs) -> Outcome {
    let id = wire::sandbox_id(&args.id)?;
    let client = sandbox::client(context, &args.server).await?;
    let sandbox = client.sandbox(&id).connect().await;
    let sandbox = sandbox.map_err(wire::not_connected)?;
    let created = match running(&sandbox, &args).await {
        Some(pid) => {
            let created = again(&sandbox, pid, args.private).await;
            sandbox.close().await;
            created?
        }
        None => start(sandbox, &args).await?,
    };
    if args.json {
        return output::json(&created);
    }
    output::data(&expose::browser_address(&created))
}

/// VS Code that has the folder open. One that is to begin with something is another.
async fn running(sandbox: &Sandbox, args: &CodeArgs) -> Option<i32> {
    if !args.extension.is_empty() || args.preview.is_some() {
        return None;
    }
    let folder = sandbox.fs().real_path(&args.folder).await.ok()?;
    for process in sandbox.processes().await.ok()? {
        let path = format!("/proc/{}/cmdline", process.pid);
        if !process.running || !process.command.ends_with("/node") {
            continue;
        }
        let line = sandbox.fs().read_file(&path).await;
        if line.is_ok_and(|line| is_vscode_of(&line, &folder)) {
            return Some(process.pid);
        }
    }
    None
}

/// Whether a command line as `/proc` has it is that of VS Code with this folder.
fn is_vscode_of(line: &[u8], folder: &str) -> bool {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    let mut words = line.split(|byte| *byte == 0);
    words.next_back() == Some(folder.as_bytes())
        && words.any(|word| word.ends_with(ENTRY.as_bytes()))
}

/// The address of VS Code that runs. A token is shown once, so who wants one gets
/// another address.
async fn again(sandbox: &SandboxRef, pid: i32, private: bool) -> Outcome<CreatedExposure> {
    output::tell("VS Code has this folder open already");
    let rows = sandbox.exposures().await.map_err(wire::refused)?;
    let public = rows
        .into_iter()
        .find(|row| row.pid == Some(pid) && !row.private);
    match public {
        Some(row) if !private => {
            let access_token = None;
            return Ok(CreatedExposure { access_token, row });
        }
        Some(row) => output::tell(&format!(
            "and {} leads there without a token, until \"tombolo sandbox unexpose\" takes it back",
            row.url
        )),
        None => {}
    }
    expose::create(sandbox, Target::Process(pid), private).await
}

async fn start(sandbox: Sandbox, args: &CodeArgs) -> Outcome<CreatedExposure> {
    let mut command = sandbox.vscode(&args.folder);
    for extension in &args.extension {
        command = command.extension(extension);
    }
    if let Some(preview) = &args.preview {
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
    // Its process, and not its port, which is another program's once it has ended.
    let process = Target::Process(started.process.pid());
    let created = expose::create(&sandbox, process, args.private).await;
    if created.is_err() {
        // Nobody would find it, and it takes much memory.
        if let Err(error) = started.process.kill(Signal::Term).await {
            tracing::debug!(%error, "VS Code has ended already");
        }
    }
    // Before `started` is dropped, which would close its output: that is nobody's from
    // here on, and is drained by the server.
    sandbox.close().await;
    created
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vscode_is_known_by_its_program_and_its_folder() {
        let ours = "/usr/local/bin/node\0/usr/local/lib/code-server/out/node/entry.js\0--port=0\0";
        let line = format!("{ours}/home/app\0");
        assert!(is_vscode_of(line.as_bytes(), "/home/app"));
        for other in ["", "\0", "/home/app\0", "node\0x.js\0/home/app\0"] {
            assert!(!is_vscode_of(other.as_bytes(), "/home/app"), "{other:?}");
        }
        assert!(!is_vscode_of(line.as_bytes(), "/home/app/project"));
        assert!(!is_vscode_of(ours.as_bytes(), "/home/app"));
    }
}
