//! What set-up left for a node: the manifest names each artefact by its path.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The parts a VM is made of, as written by set-up.
#[derive(Debug, Clone, Deserialize)]
pub struct Artefacts {
    /// Changes whenever any part does.
    pub key: String,
    /// A directory holding QEMU and its libraries; the root of every jail.
    pub engine_root: PathBuf,
    /// The guest's kernel, within `engine_root`.
    pub kernel: PathBuf,
    /// The guest's first file system: the agent and the modules it loads.
    pub initramfs: PathBuf,
    /// The guest's root disk (qcow2), never written to.
    pub image: PathBuf,
}

/// Why the manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadArtefactsError {
    /// It is not there or not readable.
    #[error("cannot read what set-up left behind; run `tombolo setup`")]
    Read(#[source] std::io::Error),
    /// It is not what this version writes.
    #[error("{path} is not a manifest of this version; run `tombolo setup`")]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Artefacts {
    /// Reads `<state>/artefacts/manifest.json`.
    pub fn load(state_dir: &Path) -> Result<Self, LoadArtefactsError> {
        let path = state_dir.join("artefacts/manifest.json");
        let text = fs_err::read(&path).map_err(LoadArtefactsError::Read)?;
        serde_json::from_slice(&text).map_err(|source| LoadArtefactsError::Parse { path, source })
    }
}
