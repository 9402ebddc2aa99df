//! VS Code for browsers in the guest's root: an extra that a person asks for.
//!
//! It is code-server from npm, run by the guest's own Node. All that it needs
//! comes as prebuilt binaries from npm too, but for two small native modules
//! whose work is done by files of ours.

use std::path::{Path, PathBuf};

use tombolo_proc::Command;

use super::NETWORK_VARIABLES;
use super::guest::{SCRATCH, certificates, chroot_with_network, copy_first};
use crate::StepError;
use crate::recipe::{CODE_SERVER, CODE_SERVER_UNNEEDED};

/// Fetches, verifies and unpacks; runs in the guest's Python.
pub(crate) const INSTALL: &str = include_str!("vscode.py");

/// Where it is, below the guest's root. The server knows it too.
const PLACE: &str = "usr/local/lib/code-server";

/// What is ours in it, each with its place inside.
pub(crate) const FILES: [(&str, &str); 5] = [
    ("config.yaml", include_str!("vscode/config.yaml")),
    (
        "lib/vscode/extensions/tombolo/package.json",
        include_str!("vscode/extension/package.json"),
    ),
    (
        "lib/vscode/extensions/tombolo/extension.js",
        include_str!("vscode/extension/extension.js"),
    ),
    (
        "lib/vscode/node_modules/@vscode/native-watchdog/index.js",
        include_str!("vscode/watchdog.js"),
    ),
    (
        "lib/vscode/node_modules/@vscode/spdlog/index.js",
        include_str!("vscode/spdlog.js"),
    ),
];

/// What a person may have told npm, passed on so that it decides here too.
const NPM_VARIABLES: [&str; 6] = [
    "npm_config_registry",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "NPM_CONFIG_REGISTRY",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
];

/// Puts VS Code into a root that has Node and Python.
pub(super) fn install(root: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
    listen("fetching VS Code");
    let scratch = Path::new("/").join(SCRATCH);
    let prepare = |root: &Path| -> Result<(), StepError> {
        let scratch = root.join(SCRATCH);
        fs_err::write(scratch.join("vscode.py"), INSTALL)?;
        fs_err::write(scratch.join("unneeded"), CODE_SERVER_UNNEEDED.join("\n"))?;
        copy_first(&certificates(), &scratch.join("certificates.crt"))?;
        Ok(copy_first(&npm_configurations(), &scratch.join("npmrc"))?)
    };
    let fetch = |chroot: Command| {
        let command = chroot
            .arg("/usr/bin/python3")
            .arg(scratch.join("vscode.py"))
            .args([CODE_SERVER.version, CODE_SERVER.integrity])
            .arg(&scratch)
            .arg(Path::new("/").join(PLACE))
            .pass_env(NETWORK_VARIABLES)
            .pass_env(NPM_VARIABLES)
            .env("HOME", &scratch)
            .env("TMPDIR", &scratch)
            .env("npm_config_cache", scratch.join("npm"))
            .env("npm_config_userconfig", scratch.join("npmrc"))
            .env("npm_config_update_notifier", "false");
        if certificates().is_empty() {
            command
        } else {
            let path = scratch.join("certificates.crt");
            command
                .env("npm_config_cafile", &path)
                .env("NODE_EXTRA_CA_CERTS", path)
        }
    };
    chroot_with_network(root)?.run(prepare, fetch, listen)?;
    let place = root.join(PLACE);
    for (path, text) in FILES {
        let path = place.join(path);
        fs_err::create_dir_all(path.parent().unwrap_or(&place))?;
        fs_err::write(path, text)?;
    }
    check(root, listen)
}

fn npm_configurations() -> Vec<PathBuf> {
    let chosen = ["npm_config_userconfig", "NPM_CONFIG_USERCONFIG"].map(std::env::var_os);
    let chosen = chosen.into_iter().flatten().map(PathBuf::from);
    let of_user = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".npmrc"));
    let all = chosen.chain(of_user);
    all.filter(|path| path.is_file()).collect()
}

/// Starts it as far as it says its version, which loads most of what it needs.
fn check(root: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
    let config = Path::new("/").join(PLACE).join("config.yaml");
    let entry = Path::new("/").join(PLACE).join("out/node/entry.js");
    let version = |chroot: Command| {
        chroot
            .args(["/usr/local/bin/node"])
            .args([entry, "--config".into(), config, "--version".into()])
            .env("HOME", "/run")
    };
    let chroot = chroot_with_network(root)?;
    let output = chroot.run(|_| Ok(()), version, listen)?.stdout_text();
    if output.starts_with(CODE_SERVER.version) {
        Ok(())
    } else {
        Err(StepError::Check {
            path: root.join(PLACE),
            finding: "it does not say its version",
        })
    }
}
