//! What the rows share, and the list of all.

use std::future::Future;
use std::pin::Pin;

use anyhow::ensure;
use tombolo_client::fs::{Fs, MakeTempOptions};
use tombolo_client::{Client, Sandbox};

use crate::{deno, files, processes, sandboxes};

/// One row: a test of one or some methods.
pub(crate) type Row = fn(Rig) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Public functions that no row has: what makes and shows values, and what
/// the tests of the crate itself try.
pub(crate) const NOT_CALLS: [&str; 18] = [
    // The client itself, which every row has; `from_env` is of the examples.
    "new",
    "parse",
    "from_env",
    "endpoint",
    "token",
    "trusting",
    "reveal",
    "get",
    "send",
    // What errors tell.
    "next_step",
    "kind",
    "is_not_found",
    "object",
    "call",
    "cause",
    "refusal",
    "is_temporary",
    "too_long",
];

/// A client, and a sandbox that the rows use together.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) client: Client,
    pub(crate) sandbox: Sandbox,
    pub(crate) fs: Fs,
}

impl Rig {
    pub(crate) async fn start(client: Client) -> anyhow::Result<Self> {
        let sandbox = Sandbox::create(&client).await?;
        let fs = sandbox.fs();
        Ok(Self {
            client,
            sandbox,
            fs,
        })
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        Ok(self.sandbox.kill().await?)
    }

    /// A directory of its own for one row.
    pub(crate) async fn directory(&self) -> anyhow::Result<String> {
        Ok(self.fs.make_temp_dir(MakeTempOptions::default()).await?)
    }

    /// A file of its own for one row.
    pub(crate) async fn file(&self, content: &str) -> anyhow::Result<String> {
        let path = format!("{}/file", self.directory().await?);
        self.fs.write_text_file(&path, content).await?;
        Ok(path)
    }

    /// What a script writes.
    pub(crate) async fn shell(&self, script: &str) -> anyhow::Result<String> {
        let output = self.sandbox.sh(script).output().await?;
        ensure!(output.status.success, "{script}: {}", output.stderr_text());
        Ok(output.stdout_text())
    }
}

macro_rules! rows {
    ($($name:literal => $function:path,)+) => {
        vec![$(($name, (|rig| Box::pin($function(rig))) as Row),)+]
    };
}

/// Every row, in order.
pub(crate) fn all() -> Vec<(&'static str, Row)> {
    rows![
        "Client.healthy, info, delete" => sandboxes::server,
        "Sandbox::create, builder, config, memory_mib, timeout, label, env, region, create, id, warnings" => sandboxes::create,
        "SandboxBuilder.allow_net, secret, egress_policy" => sandboxes::network,
        "SandboxBuilder.expose_ssh, expose_http, ssh, url" => sandboxes::ways_in,
        "Sandbox::connect, Client.sandbox, SandboxRef.connect" => sandboxes::connect,
        "Client.sandboxes, label, labels, state, running, fresh_usage, limit, stream, all, pages" => sandboxes::list,
        "Sandbox.extend_timeout, kill, closed" => sandboxes::end,
        "Sandbox.close" => sandboxes::close,
        "Sandbox.expose_http, expose_http_privately, exposures, unexpose" => sandboxes::expose,
        "Sandbox.expose_ssh, unexpose_ssh" => sandboxes::ssh,
        "Sandbox.egress, policy, set_policy, set_allow_net, stats, explain" => sandboxes::policy,
        "Egress.secrets, put_secret, revoke_secret" => sandboxes::secrets,
        "Egress.records, Client.egress_records, events, next" => sandboxes::records,
        "Sandbox.env, get, set, delete, all" => sandboxes::environment,
        "Sandbox.vscode, extension, preview, setting, without_stop_button, start, expose" => sandboxes::vscode,
        "Sandbox.command, arg, args, spawn, output, stdout_text, stderr_text, status" => processes::output,
        "Sandbox.sh, Command.env, envs, env_clear, current_dir, output_len_max" => processes::settings,
        "Command.stdin, stdout, stderr, WriteStream.write, finish, ReadStream.chunk, read_to_end, read_to_string, into_async_read" => processes::streams,
        "ReadStream dropped" => processes::dropped,
        "Process.pid, handle, kill, exited, Sandbox.process, Signal.as_str" => processes::signals,
        "Command.terminal, Process.resize, ProcessHandle.attach, Sandbox.processes" => processes::terminal,
        "Sandbox.fs, Fs.read_file, read_text_file, write_file, write_file_with, write_text_file, append, create, create_new, mode" => files::whole,
        "Fs.read_stream, write_stream, write_stream_with, write, reason" => files::pieces,
        "Fs.mkdir, mkdir_with, recursive, remove, remove_all, read_dir" => files::directories,
        "Fs.rename, copy_file, link, symlink, read_link, real_path" => files::names,
        "Fs.stat, lstat, try_stat, is_file, is_dir, is_symlink, chmod, chown, truncate, utime, umask" => files::metadata,
        "Fs.make_temp_dir, make_temp_file, dir, prefix, suffix" => files::temporary,
        "Fs.walk, walk_with, max_depth, include_files, include_dirs, include_symlinks, follow_symlinks, canonicalize, exts, matching, skip" => files::walk,
        "Fs.expand_glob, expand_glob_with, root, exclude, extended, globstar, case_insensitive" => files::glob,
        "Fs.open, open_with, create, File.path, read, write, write_all, seek, truncate, stat, sync, sync_data, utime, close" => files::handles,
        "File.lock, lock_shared, unlock" => files::locks,
        "Fs.upload, download, copy, copy_with" => files::copies,
        "Sandbox.watch, watch_all, FileChanges.next" => files::changes,
        "Sandbox.deno, run, run_code, extension, watch_also, DenoCommand.output" => deno::run,
        "DenoCommand.watch, DenoProcess.restarted" => deno::watch,
        "DenoProcess.http_ready, fetch" => deno::serve,
        "Deno.eval, repl, Repl.eval, call, close, Thrown.thrown, class, message, stack" => deno::eval,
        "Sandbox.fetch, method, header, redirect, body, body_stream, Response.is_success, header, bytes, text, json" => deno::fetch,
        "Fetch dropped" => deno::aborted,
    ]
}
