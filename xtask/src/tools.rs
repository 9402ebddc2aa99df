//! Running the tools that the tasks are made of.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tombolo_proc::Command;

/// The root of the workspace, wherever the task was started.
pub(crate) fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Cargo, in the workspace, for the person who called us.
pub(crate) fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    Command::new("cargo")
        .inherit_env()
        .cwd(workspace())
        .args(arguments)
}

/// Says what runs, runs it with our own standard streams, and fails with it.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    say(&format!("$ {}", command.display()));
    let status = command.status_blocking()?;
    if !status.success() {
        bail!("`{}` ended with {status}", command.display());
    }
    Ok(())
}

/// Whether a tool starts and says that it is well.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let command = Command::new(program)
        .inherit_env()
        .cwd(workspace())
        .args(arguments);
    command.run_blocking().is_ok()
}

/// Installs a cargo subcommand unless it is there.
pub(crate) fn ensure_subcommand(name: &str) -> anyhow::Result<()> {
    if works("cargo", &[name, "--version"]) {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    run(&cargo(["install", "--locked", &package]))
        .with_context(|| format!("{package} is missing and could not be installed"))
}

/// Fails unless this runs as root, which virtual machines need.
pub(crate) fn ensure_root() -> anyhow::Result<()> {
    let output = Command::new("id").arg("-u").run_blocking()?;
    if output.stdout_text() != "0" {
        bail!(
            "the tests of real VMs need root: run as root, or leave them out with \
             `cargo xtask test --ring core` and `--ring programs`"
        );
    }
    Ok(())
}

/// A line for people.
pub(crate) fn say(line: &str) {
    // Nobody reads: then there is nobody to tell that nobody reads.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
