//! What was made and where: the file the node reads.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{StepError, publish::publish};

/// The version of the manifest's own form.
const VERSION: u32 = 1;

/// Everything a node needs to run sandboxes, with absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefacts {
    /// The version of this form.
    pub version: u32,
    /// Identifies the recipe of everything together.
    pub key: String,
    /// A directory with QEMU and its firmware, to `chroot` into.
    pub engine_root: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The agent and its modules.
    pub initramfs: PathBuf,
    /// The root disk every sandbox starts from, `qcow2`; never written to.
    pub image: PathBuf,
    /// What the kernel calls itself.
    pub kernel_release: String,
    /// What QEMU calls itself.
    pub qemu_version: String,
    /// The agent's release and content.
    pub agent_version: String,
    /// Whether the root disk has VS Code.
    #[serde(default)]
    pub has_vscode: bool,
    /// The lengths of kernel, initramfs and image, in bytes.
    pub lengths: Lengths,
}

/// File lengths: enough to notice a file that was cut or replaced by hand,
/// without reading gigabytes at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Of the kernel.
    pub kernel: u64,
    /// Of the initramfs.
    pub initramfs: u64,
    /// Of the image.
    pub image: u64,
}

/// The parts of a manifest that only the steps know.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) key: String,
    pub(crate) engine_root: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) kernel_release: String,
    pub(crate) qemu_version: String,
    pub(crate) has_vscode: bool,
}

impl Artefacts {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let lengths = Lengths {
            kernel: fs_err::metadata(&parts.kernel)?.len(),
            initramfs: fs_err::metadata(&parts.initramfs)?.len(),
            image: fs_err::metadata(&parts.image)?.len(),
        };
        Ok(Self {
            version: VERSION,
            key: parts.key,
            engine_root: parts.engine_root,
            kernel: parts.kernel,
            initramfs: parts.initramfs,
            image: parts.image,
            kernel_release: parts.kernel_release,
            qemu_version: parts.qemu_version,
            agent_version: crate::agent::version(),
            has_vscode: parts.has_vscode,
            lengths,
        })
    }

    /// Reads a manifest if it is of this form, of this recipe, and everything
    /// it names is there. Anything else means that there is work to do.
    pub(crate) fn current(manifest: &Path, key: &str) -> Option<Self> {
        let text = fs_err::read(manifest).ok()?;
        let found: Self = serde_json::from_slice(&text).ok()?;
        let whole = found.version == VERSION && found.key == key && found.is_whole(manifest);
        whole.then_some(found)
    }

    /// Whether what was made last, of whatever recipe, has VS Code.
    pub(crate) fn had_vscode(manifest: &Path) -> bool {
        let found = fs_err::read(manifest).ok();
        found
            .and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            .is_some_and(|found| found.has_vscode)
    }

    pub(crate) fn save(&self, manifest: &Path) -> Result<(), StepError> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from)?;
        publish(manifest, |path| Ok(fs_err::write(path, text)?))
    }

    fn is_whole(&self, manifest: &Path) -> bool {
        // A state directory that was moved still holds the artefacts, but its
        // manifest names the old place, which may hold somebody else's.
        let here = manifest.parent().unwrap_or(manifest);
        let has = |path: &Path, length: u64| {
            path.starts_with(here) && path.metadata().is_ok_and(|meta| meta.len() == length)
        };
        self.engine_root.is_dir()
            && has(&self.kernel, self.lengths.kernel)
            && has(&self.initramfs, self.lengths.initramfs)
            && has(&self.image, self.lengths.image)
    }
}
