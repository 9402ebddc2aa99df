//! Every check that is not a test. All run, so that one call shows everything.

use anyhow::bail;

use crate::{
    tidy,
    tools::{self, cargo, say, works},
};

type Check = (&'static str, fn() -> anyhow::Result<()>);

const CHECKS: [Check; 5] = [
    ("formatting", formatting),
    ("clippy", clippy),
    ("documentation", documentation),
    ("dependencies", dependencies),
    ("tidy", tidy::run),
];

fn run_all() -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if let Err(error) = check() {
            say(&format!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    failed
}

/// `cargo xtask lint`.
pub(crate) fn run() -> anyhow::Result<()> {
    let failed = run_all();
    if !failed.is_empty() {
        bail!("these checks failed: {}", failed.join(", "));
    }
    say("every check passed");
    Ok(())
}

/// `cargo xtask deny`.
pub(crate) fn deny() -> anyhow::Result<()> {
    tools::ensure_subcommand("deny")?;
    check_dependencies()
}

fn formatting() -> anyhow::Result<()> {
    tools::run(&cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    tools::run(&cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny=warnings",
    ]))
}

fn documentation() -> anyhow::Result<()> {
    let command = cargo(["doc", "--workspace", "--no-deps", "--quiet"]);
    tools::run(&command.env("RUSTDOCFLAGS", "--deny=warnings"))
}

/// Compiling cargo-deny takes longer than everything else here together, so it
/// is used where it is installed and missed aloud where it is not.
fn dependencies() -> anyhow::Result<()> {
    if works("cargo", &["deny", "--version"]) {
        return check_dependencies();
    }
    say(
        "dependencies: NOT CHECKED, because cargo-deny is not installed; `cargo xtask deny` installs and runs it",
    );
    Ok(())
}

/// Advisories change without us and need the network; they are for a person
/// to look at (`cargo deny check advisories`), not for every build to fail on.
fn check_dependencies() -> anyhow::Result<()> {
    tools::run(&cargo(["deny", "check", "bans", "licenses", "sources"]))
}
