//! Making the artefacts from Debian's packages.
//!
//! The host needs two packages of its own: `mmdebstrap`, with Debian's archive
//! keyring to verify what it downloads, and `nftables`. Everything else (QEMU, `mke2fs`,
//! `qemu-img`) runs from the engine root it unpacks, so the host's versions and
//! conflicts never matter.

mod engine;
mod guest;
mod host;
mod image;
pub(crate) mod vscode;

use std::path::Path;

use tombolo_proc::Command;

use crate::{
    Layout, SetupError, SetupOptions, StepError,
    ensure::{Engine, Missing, Steps, Workshop},
    initramfs, recipe,
};

pub(crate) use host::{KEYRING, check_machine, free_mib, is_root, mmdebstrap_path, nft_path};

/// Variables by which a person tells programs how to reach the network.
const NETWORK_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Only what was asked for, and more than one try to get it.
const APT_OPTIONS: [&str; 2] = [
    "APT::Install-Recommends \"false\"",
    "Acquire::Retries \"3\"",
];

/// The real workshop.
#[derive(Debug)]
pub(crate) struct Debian {
    mirror: Option<String>,
}

impl Debian {
    pub(crate) fn new(options: &SetupOptions) -> Result<Self, SetupError> {
        check_machine()?;
        if !is_root() {
            return Err(SetupError::NotRoot);
        }
        Ok(Self {
            mirror: options.mirror.clone(),
        })
    }

    fn mmdebstrap(&self, variant: &str, packages: &[&str], target: &Path) -> Command {
        // It mounts file systems below its target. In a namespace of their own
        // they go with the process, however it ends, and a leftover directory
        // can be removed. The processes it starts are in one too, and end with
        // this one, also when this one is killed: the next run may begin at once.
        let command = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg("mmdebstrap")
            .args(["--mode=root", "--format=directory"])
            .arg(format!("--variant={variant}"))
            .arg(format!("--include={}", packages.join(",")))
            .args(APT_OPTIONS.map(|option| format!("--aptopt={option}")))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .pass_env(NETWORK_VARIABLES)
            .pass_env(["TMPDIR"]);
        let options = match variant {
            "extract" => command,
            _ => command.args(recipe::GUEST_EXCLUDED.map(|line| format!("--dpkgopt={line}"))),
        };
        options.arg(recipe::SUITE).arg(target).args(&self.mirror)
    }
}

impl Workshop for Debian {
    fn prepare(
        &self,
        layout: &Layout,
        missing: Missing,
        steps: &Steps<'_>,
    ) -> Result<(), SetupError> {
        host::prepare(layout, missing, steps)
    }

    fn engine(&self, target: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
        let unpack = self.mmdebstrap("extract", &recipe::ENGINE_PACKAGES, target);
        engine::make(&unpack, target, listen)
    }

    fn inspect(&self, engine_root: &Path) -> Result<Engine, StepError> {
        engine::inspect(engine_root)
    }

    fn initramfs(
        &self,
        engine_root: &Path,
        engine: &Engine,
        target: &Path,
    ) -> Result<(), StepError> {
        initramfs::make(engine_root, &engine.kernel_release, target)
    }

    fn guest(
        &self,
        engine_root: &Path,
        engine: &Engine,
        with_vscode: bool,
        target: &Path,
        listen: &(dyn Fn(&str) + Sync),
    ) -> Result<(), StepError> {
        let root = target.join("root");
        fs_err::create_dir(target)?;
        let install = self.mmdebstrap("essential", &recipe::GUEST_PACKAGES, &root);
        let parts = guest::Parts {
            engine_root,
            kernel_release: &engine.kernel_release,
            with_vscode,
        };
        guest::make(&install, parts, &root, listen)?;
        image::make(engine_root, target, &root, listen)
    }
}
