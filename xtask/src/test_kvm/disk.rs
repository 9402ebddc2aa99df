//! The disk of the emulated machine: the artefacts at a place of their own,
//! the tests, the shell and the libraries that both need, and KVM's modules.
//! Its system programs are the engine root's.

use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tombolo_proc::Command;

use crate::tools;

/// Where things are in the emulated machine.
pub(super) const STATE_DIR: &str = "/state";
pub(super) const HOST_DIR: &str = "/host";
pub(super) const LOADER: &str = "/host/ld-linux-x86-64.so.2";
pub(super) const SHELL: &str = "/host/bash";
pub(super) const TEST_PROGRAM: &str = "/host/engine";
pub(super) const START_SCRIPT: &str = "/start";
pub(super) const MODULES_DIR: &str = "/modules";

/// The modules behind `/dev/kvm`, and those a slot's tap and packet rules use,
/// in loading order, and where the kernel's package has them.
pub(super) const MODULES: [(&str, &str); 17] = [
    ("irqbypass", "virt/lib"),
    ("kvm", "arch/x86/kvm"),
    ("kvm-amd", "arch/x86/kvm"),
    ("tun", "drivers/net"),
    ("libcrc32c", "lib"),
    ("nfnetlink", "net/netfilter"),
    ("nf_tables", "net/netfilter"),
    ("nf_defrag_ipv4", "net/ipv4/netfilter"),
    ("nf_defrag_ipv6", "net/ipv6/netfilter"),
    ("nf_tproxy_ipv4", "net/ipv4/netfilter"),
    ("nf_tproxy_ipv6", "net/ipv6/netfilter"),
    ("nft_tproxy", "net/netfilter"),
    ("nf_reject_ipv4", "net/ipv4/netfilter"),
    ("nf_reject_ipv6", "net/ipv6/netfilter"),
    ("nft_reject", "net/netfilter"),
    ("nft_reject_inet", "net/netfilter"),
    ("nft_limit", "net/netfilter"),
];

const HOST_SHELL: &str = "/bin/bash";
const HOST_LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Holds the artefacts, a template's memory and what machines write; sparse.
const SIZE: &str = "6G";

/// A disk and what to boot it with.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) image: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) engine_root: PathBuf,
}

impl Disk {
    /// A program of the engine root, with the libraries it was packaged with.
    pub(super) fn engine_tool(&self, program: &str) -> Command {
        engine_tool(&self.engine_root, program)
    }
}

/// What set-up wrote about what it made; only what is needed here.
#[derive(Debug, serde::Deserialize)]
struct Manifest {
    engine_root: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    image: PathBuf,
    kernel_release: String,
}

pub(super) fn make(work: &Path, state: &Path, tests: &Path, start: &str) -> anyhow::Result<Disk> {
    let stage = work.join("stage");
    for directory in [
        "proc", "sys", "dev", "etc", "tmp", "var/tmp", "host", "modules",
    ] {
        fs_err::create_dir_all(stage.join(directory))?;
    }
    let manifest = stage_artefacts(&stage, state)?;
    let engine = manifest.engine_root.clone();
    let name = engine.file_name().context("the engine root has no name")?;
    symlink(
        Path::new("state/artefacts").join(name).join("usr"),
        stage.join("usr"),
    )?;
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), stage.join(link))?;
    }
    stage_programs(&stage, tests)?;
    stage_modules(&stage, &manifest)?;
    fs_err::write(stage.join("start"), start)?;
    let image = work.join("disk.img");
    let make = engine_tool(&engine, "usr/sbin/mke2fs")
        .args(["-q", "-t", "ext4", "-m", "0", "-d"])
        .arg(&stage)
        .arg(&image)
        .arg(SIZE);
    make.run_blocking()?;
    fs_err::remove_dir_all(&stage)?;
    Ok(Disk {
        image,
        kernel: manifest.kernel,
        engine_root: engine,
    })
}

/// Copies the current artefacts, and a manifest that names them where the
/// emulated machine has them.
fn stage_artefacts(stage: &Path, state: &Path) -> anyhow::Result<Manifest> {
    let source = state.join("artefacts");
    let path = source.join("manifest.json");
    let text = fs_err::read_to_string(&path)?;
    let manifest: Manifest = serde_json::from_str(&text)
        .with_context(|| format!("{} is no manifest of ours", path.display()))?;
    // The manifest has the artefacts' real place, whatever link led here.
    let place = manifest
        .initramfs
        .parent()
        .context("the initramfs is nowhere")?;
    let target = stage.join("state/artefacts");
    fs_err::create_dir_all(&target)?;
    let copy = Command::new("cp").args(["-a", "--reflink=auto", "--parents", "--"]);
    let mut copy = copy.cwd(place);
    for artefact in [&manifest.engine_root, &manifest.initramfs, &manifest.image] {
        copy = copy.arg(artefact.strip_prefix(place)?);
    }
    copy.arg(&target).run_blocking()?;
    let inside = format!("{STATE_DIR}/artefacts");
    let text = text.replace(&place.display().to_string(), &inside);
    fs_err::write(target.join("manifest.json"), text)?;
    Ok(manifest)
}

/// The tests and a shell, with the host's loader and the libraries it finds
/// for them: both were made for this host, not for the engine root.
fn stage_programs(stage: &Path, tests: &Path) -> anyhow::Result<()> {
    let host = stage.join("host");
    let shell = Path::new(HOST_SHELL);
    for (program, name) in [(tests, "engine"), (shell, "bash")] {
        fs_err::copy(program, host.join(name))?;
        let listed = Command::new(HOST_LOADER)
            .arg("--list")
            .arg(program)
            .run_blocking()?
            .stdout_text();
        for library in libraries(&listed) {
            let name = library.file_name().context("a library has no name")?;
            fs_err::copy(library, host.join(name))?;
        }
    }
    let loader = host.join("ld-linux-x86-64.so.2");
    fs_err::copy(HOST_LOADER, &loader)?;
    fs_err::set_permissions(&loader, Permissions::from_mode(0o755))?;
    Ok(())
}

/// The paths in what the loader lists: `name => path (address)`.
fn libraries(listed: &str) -> impl Iterator<Item = &Path> {
    listed.lines().filter_map(|line| {
        let (_, found) = line.split_once(" => ")?;
        let (path, _) = found.rsplit_once(" (")?;
        Some(Path::new(path))
    })
}

fn stage_modules(stage: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let kernel = manifest
        .engine_root
        .join("usr/lib/modules")
        .join(&manifest.kernel_release)
        .join("kernel");
    let modules = stage.join(MODULES_DIR.trim_start_matches('/'));
    for (name, directory) in MODULES {
        let packed = kernel.join(directory).join(format!("{name}.ko.xz"));
        let mut packed = std::io::BufReader::new(fs_err::File::open(packed)?);
        let mut module = Vec::new();
        lzma_rs::xz_decompress(&mut packed, &mut module)
            .map_err(|error| anyhow::anyhow!("cannot unpack the module {name}: {error:?}"))?;
        fs_err::write(modules.join(format!("{name}.ko")), module)?;
    }
    Ok(())
}

fn engine_tool(engine_root: &Path, program: &str) -> Command {
    Command::new(engine_root.join("usr/lib64/ld-linux-x86-64.so.2"))
        .cwd(tools::workspace())
        .arg("--library-path")
        .arg(engine_root.join("usr/lib/x86_64-linux-gnu"))
        .arg(engine_root.join(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_the_loader_found() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f25)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f26)\n";
        let found: Vec<&Path> = libraries(listed).collect();
        assert_eq!(found, [Path::new("/lib/x86_64-linux-gnu/libm.so.6")]);
    }
}
