//! Where set-up keeps what it makes, below the state directory.

use std::path::{Path, PathBuf};

/// The directories of one state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
}

impl Layout {
    /// The layout below a state directory.
    pub fn new(state_dir: impl AsRef<Path>) -> Self {
        Self {
            state: state_dir.as_ref().to_owned(),
        }
    }

    /// The state directory itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Everything set-up makes.
    pub fn artefacts(&self) -> PathBuf {
        self.state.join("artefacts")
    }

    /// What was made and where; the last thing set-up writes.
    pub fn manifest(&self) -> PathBuf {
        self.artefacts().join("manifest.json")
    }

    /// Held by the one set-up that runs.
    pub(crate) fn lock(&self) -> PathBuf {
        self.artefacts().join(".lock")
    }

    /// What the programs that set-up runs have to say.
    pub fn log(&self) -> PathBuf {
        self.state.join("log").join("setup.log")
    }

    pub(crate) fn engine(&self, key: &str) -> PathBuf {
        self.artefacts().join(format!("engine-{key}"))
    }

    pub(crate) fn guest(&self, key: &str) -> PathBuf {
        self.artefacts().join(format!("guest-{key}"))
    }

    pub(crate) fn initramfs(&self, key: &str) -> PathBuf {
        self.artefacts().join(format!("initramfs-{key}.img"))
    }
}
