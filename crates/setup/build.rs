//! Builds the guest agent, static, and hands its bytes to this crate.
//!
//! The agent runs inside another machine, so it is a program of its own with
//! its own profile and flags; a nested cargo with a target directory of its
//! own builds it, which cannot wait for a lock that the outer cargo holds.

use std::{
    env,
    error::Error,
    fmt::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Variables that the outer cargo, or clippy through it, sets for its own
/// build and that would change what the nested one does.
const NOT_INHERITED: [&str; 8] = [
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CLIPPY_ARGS",
    "RUSTC",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
];
const NOT_INHERITED_PREFIXES: [&str; 5] = [
    "CARGO_CFG_",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_ENCODED_",
];
const SOURCES: [&str; 8] = [
    "Cargo.lock",
    "Cargo.toml",
    "crates/agent",
    "crates/diag",
    "crates/guest-proto",
    "crates/ids",
    "crates/proc",
    "crates/sys",
];

fn main() -> Result<(), Box<dyn Error>> {
    let workspace = path("CARGO_MANIFEST_DIR")?.join("../..").canonicalize()?;
    for source in SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    let out = path("OUT_DIR")?;
    let target = target_directory(&out)?.join("agent");
    build(&workspace, &target)?;

    let built = target.join(TARGET).join("agent").join("tombolo-agent");
    let bytes = fs_err::read(&built)?;
    let mut hex = String::new();
    for byte in Sha256::digest(&bytes) {
        write!(hex, "{byte:02x}")?;
    }
    println!("cargo::rustc-env=TOMBOLO_AGENT_SHA256={hex}");
    fs_err::write(out.join("tombolo-agent"), bytes)?;
    Ok(())
}

fn path(variable: &str) -> Result<PathBuf, Box<dyn Error>> {
    let value = env::var_os(variable).ok_or_else(|| format!("cargo did not set {variable}"))?;
    Ok(PathBuf::from(value))
}

/// `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<package>/out`; the target
/// directory is the outermost one that cargo marked as its own.
fn target_directory(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let marked = |path: &&Path| path.join("CACHEDIR.TAG").is_file();
    let found = out.ancestors().find(marked);
    let profile = out.ancestors().nth(3);
    let target = found.or_else(|| profile.and_then(Path::parent));
    Ok(target.ok_or("OUT_DIR is too short")?.to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a build script inherits cargo's environment on purpose and depends on no crate of ours"
)]
fn build(workspace: &Path, target: &Path) -> Result<(), Box<dyn Error>> {
    let cargo = path("CARGO")?;
    let mut command = std::process::Command::new(cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let foreign = NOT_INHERITED_PREFIXES.iter().any(|p| text.starts_with(p));
        if foreign || NOT_INHERITED.contains(&text.as_str()) {
            command.env_remove(&name);
        }
    }
    let status = command
        .current_dir(workspace)
        .args(["build", "--quiet", "--locked", "--package", "tombolo-agent"])
        .args(["--profile", "agent", "--target", TARGET, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("building the guest agent ended with {status}").into())
    }
}
