//! The engine root: QEMU, its firmware, `mke2fs` and the guest kernel, unpacked
//! and never installed.

use std::{
    collections::HashSet,
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use tombolo_proc::Command;

use crate::{
    StepError,
    chroot::Chroot,
    ensure::Engine,
    publish::remove,
    recipe::{ENGINE_FIRMWARE, ENGINE_MOUNT_POINTS, ENGINE_UNNEEDED},
};

/// Debian has the real directories below `usr`; packages that are only
/// unpacked lack the links that a running system's base package brings.
const USR_LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const KERNEL_PREFIX: &str = "vmlinuz-";
const SPECIAL_BITS: u32 = 0o7000;

/// Makes an engine root with the command that unpacks the packages.
pub(super) fn make(
    unpack: &Command,
    root: &Path,
    listen: &(dyn Fn(&str) + Sync),
) -> Result<(), StepError> {
    unpack.run_with_lines_blocking(listen)?;
    listen("removing what no VM reads");
    for link in USR_LINKS {
        let path = root.join(link);
        if !path.is_symlink() {
            remove(&path)?;
            symlink(Path::new("usr").join(link), &path)?;
        }
    }
    for path in ENGINE_UNNEEDED {
        remove(&root.join(path))?;
    }
    keep_firmware(&root.join("usr/share/qemu"))?;
    drop_special_bits(root)?;
    for path in ENGINE_MOUNT_POINTS {
        fs_err::create_dir_all(root.join(path))?;
    }
    fs_err::set_permissions(root, PermissionsExt::from_mode(0o755))?;
    inspect(root)?;
    Ok(())
}

/// Finds the kernel and asks QEMU for its version, which proves that it starts.
pub(super) fn inspect(root: &Path) -> Result<Engine, StepError> {
    let boot = root.join("boot");
    let mut releases: Vec<String> = fs_err::read_dir(&boot)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<String>>>()?
        .iter()
        .filter_map(|name| name.strip_prefix(KERNEL_PREFIX).map(str::to_owned))
        .collect();
    releases.sort();
    let kernel_release = releases.pop().ok_or_else(|| StepError::Absent {
        what: "a kernel".to_owned(),
        path: boot.clone(),
    })?;
    let version = |chroot: Command| chroot.args([QEMU, "--version"]);
    let output = Chroot::new(root).run(|_| Ok(()), version, &|_| ())?;
    let first = output
        .stdout_text()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    let qemu_version = first
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .unwrap_or(&first)
        .to_owned();
    Ok(Engine {
        kernel: boot.join(format!("{KERNEL_PREFIX}{kernel_release}")),
        kernel_release,
        qemu_version,
    })
}

fn keep_firmware(directory: &Path) -> io::Result<()> {
    let kept: HashSet<&str> = ENGINE_FIRMWARE.into();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if !kept.contains(entry.file_name().to_string_lossy().as_ref()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Programs that change identity have no business near a VM.
fn drop_special_bits(directory: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            drop_special_bits(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode();
            if mode & SPECIAL_BITS != 0 {
                let plain = PermissionsExt::from_mode(mode & !SPECIAL_BITS);
                fs_err::set_permissions(entry.path(), plain)?;
            }
        }
    }
    Ok(())
}
