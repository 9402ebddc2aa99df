//! The host: is it a machine we can use, and does it have what the steps run?

use std::path::{Path, PathBuf};

use tombolo_proc::Command;

use super::NETWORK_VARIABLES;
use crate::{
    Layout, SetupError, StepError,
    ensure::{Missing, Step, Steps},
};

/// What verifies Debian's packages.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const KEYRING_PACKAGE: &str = "debian-archive-keyring";
const MMDEBSTRAP: &str = "mmdebstrap";
const NFT: &str = "nft";
const NFT_PACKAGE: &str = "nftables";
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"];
const PACKAGE_LISTS: &str = "/var/lib/apt/lists";

/// What the steps take at their widest: packages, unpacked root and image.
const ENGINE_MIB: u64 = 1_000;
const GUEST_MIB: u64 = 3_000;
const VSCODE_MIB: u64 = 1_500;
/// The initramfs and the manifest.
const REST_MIB: u64 = 64;

pub(crate) fn check_machine() -> Result<(), SetupError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if (os, arch) == ("linux", "x86_64") {
        Ok(())
    } else {
        Err(SetupError::Machine { os, arch })
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where `mmdebstrap` is, if it is.
pub(crate) fn mmdebstrap_path() -> Option<PathBuf> {
    program_path(MMDEBSTRAP)
}

/// Where `nft` is, if it is: it loads the rules of a sandbox's network.
pub(crate) fn nft_path() -> Option<PathBuf> {
    program_path(NFT)
}

fn program_path(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}

/// What the machine says it runs, for messages.
pub(crate) fn distribution() -> String {
    let release = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    name.unwrap_or_else(|| "this system".to_owned())
}

pub(super) fn prepare(
    layout: &Layout,
    missing: Missing,
    steps: &Steps<'_>,
) -> Result<(), SetupError> {
    check_space(layout, missing)?;
    get_packages(missing, steps)
}

fn check_space(layout: &Layout, missing: Missing) -> Result<(), SetupError> {
    let needed_mib = REST_MIB
        + if missing.engine { ENGINE_MIB } else { 0 }
        + if missing.guest { GUEST_MIB } else { 0 }
        + if missing.vscode { VSCODE_MIB } else { 0 };
    let path = layout.artefacts();
    match free_mib(&path) {
        // A file system that does not tell is not a reason to refuse.
        None => Ok(()),
        Some(free) if free >= needed_mib => Ok(()),
        Some(free_mib) => Err(SetupError::Space {
            path,
            free_mib,
            needed_mib,
        }),
    }
}

/// The space left for us below a directory.
pub(crate) fn free_mib(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize) >> 20)
}

fn get_packages(missing: Missing, steps: &Steps<'_>) -> Result<(), SetupError> {
    // What only unpacking needs is not asked for when all is unpacked.
    let unpacked = !missing.engine && !missing.guest;
    let wanted = [
        (MMDEBSTRAP, unpacked || mmdebstrap_path().is_some()),
        (KEYRING_PACKAGE, unpacked || Path::new(KEYRING).is_file()),
        (NFT_PACKAGE, nft_path().is_some()),
    ];
    let missing: Vec<&'static str> = wanted
        .iter()
        .filter(|(_, there)| !there)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").is_file() {
        return Err(SetupError::Packages {
            missing,
            distribution: distribution(),
        });
    }
    steps.run(Step::PACKAGES, |listen| install(&missing, listen))
}

fn install(packages: &[&str], listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
    let update = apt_get().arg("update");
    let install = apt_get()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages);
    if !has_package_lists() {
        update.run_with_lines_blocking(listen)?;
        install.run_with_lines_blocking(listen)?;
        return Ok(());
    }
    // Lists that are there may still be too old to install from.
    if install.run_with_lines_blocking(listen).is_err() {
        update.run_with_lines_blocking(listen)?;
        install.run_with_lines_blocking(listen)?;
    }
    Ok(())
}

fn apt_get() -> Command {
    Command::new("apt-get")
        .arg("--option=DPkg::Lock::Timeout=300")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("HOME", "/root")
        .pass_env(NETWORK_VARIABLES)
}

fn has_package_lists() -> bool {
    let Ok(entries) = fs_err::read_dir(PACKAGE_LISTS) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.contains("_Packages")
    })
}
