//! Templates: VMs that were booted once and saved, so that a sandbox is a
//! restore and not a boot. A template is a directory: memory, device state, the
//! disk layer of the boot, and an empty layer for each sandbox to copy.
//!
//! The directory's name is the hash of everything that must agree between the
//! machine that was saved and one that is restored.

mod build;

use crate::artefacts::Artefacts;
use crate::launch::{StartVmError, boot_paths};
use crate::monitor::MonitorError;
use crate::processor;
use crate::qemu::{self, JAIL_TEMPLATE, Shape, Start};
use crate::vm::{self, VmError};
use crate::words::LastWords;
use build::{Build, PREWARM_COMMANDS, is_under_way};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tombolo_net::{SlotPool, TakeSlotError};
use tombolo_sys::jail::SpawnError;

/// Locked while a template is being made.
const LOCK_FILE: &str = "build.lock";
const STATE_FILE: &str = "state";
const EMPTY_DISK_FILE: &str = "empty.qcow2";
/// Its presence says that a template is whole; its time says when it was used.
const USED_FILE: &str = "used";
/// Why a template could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildTemplateError {
    /// A file of the template failed.
    #[error("cannot lay out the files of a template")]
    Files(#[from] io::Error),
    /// The image tool failed.
    #[error("the image tool failed: {words}")]
    ImageTool {
        /// What it wrote.
        words: String,
    },
    /// A jail could not be started.
    #[error("cannot start a tool in its jail")]
    Jail(#[from] SpawnError),
    /// There is no network for its VM.
    #[error("cannot make a network for the VM of a template")]
    Network(#[from] TakeSlotError),
    /// The VM could not be started.
    #[error("cannot start the VM of a template")]
    Start(#[from] StartVmError),
    /// The VM could not be saved.
    #[error("cannot save the VM of a template")]
    Save(#[from] MonitorError),
    /// What the VM left could not be removed.
    #[error("cannot clean up after the VM of a template")]
    CleanUp(#[from] VmError),
    /// The guest did not come up.
    #[error("the guest did not boot within {seconds} s: {last}")]
    NoAgent {
        /// How long it was given.
        seconds: u64,
        /// What it left.
        last: LastWords,
    },
    /// The agent's channel broke although the VM runs.
    #[error("the channel to the guest's agent broke")]
    Channel(#[source] io::Error),
    /// QEMU ended during the boot.
    #[error("QEMU ended during the boot: {last}")]
    Ended {
        /// What it left.
        last: LastWords,
    },
    /// The agent refused.
    #[error("the agent in the guest failed")]
    Agent(#[from] Box<tonic::Status>),
    /// Something took too long.
    #[error("saving the VM took too long")]
    Slow(#[from] tokio::time::error::Elapsed),
    /// No randomness.
    #[error("the host gives no random numbers")]
    Random(#[from] getrandom::Error),
}

/// A template that is whole and ready to be restored from.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) dir: PathBuf,
}

impl Template {
    /// Where in a jail the device state is.
    pub(crate) fn jail_state_path() -> String {
        format!("{JAIL_TEMPLATE}/{STATE_FILE}")
    }

    /// Puts a new, empty disk layer at `disk`.
    pub(crate) fn copy_empty_disk(&self, disk: &Path) -> io::Result<()> {
        fs_err::copy(self.dir.join(EMPTY_DISK_FILE), disk)?;
        Ok(())
    }
}

/// All templates of one node.
#[derive(Debug)]
pub(crate) struct Templates {
    pub(crate) dir: PathBuf,
    pub(crate) artefacts: Artefacts,
    pub(crate) slots: Arc<SlotPool>,
    /// More are removed, the longest unused first.
    pub(crate) count_max: usize,
}

impl Templates {
    fn key(&self, shape: Shape) -> String {
        let arguments = qemu::arguments(shape, &Start::Boot(boot_paths(&self.artefacts)));
        let mut hash = Sha256::new();
        hash.update(self.artefacts.key.as_bytes());
        hash.update(format!("{arguments:?}{PREWARM_COMMANDS:?}").as_bytes());
        hash.update(format!("{} GiB", shape.disk_gib).as_bytes());
        // A saved processor is only restored onto the same kind.
        hash.update(processor::model().as_bytes());
        let digest = hash.finalize();
        let mut key = format!("{}-{}-", shape.isolation().as_str(), shape.memory_mib);
        for byte in digest.iter().take(8) {
            // Writing to a string cannot fail.
            write!(key, "{byte:02x}").ok();
        }
        key
    }

    /// The template of this shape, if it has been made.
    pub(crate) fn find(&self, shape: Shape) -> Option<Template> {
        let dir = self.dir.join(self.key(shape));
        let used = dir.join(USED_FILE);
        // Touching it keeps it from being the longest unused.
        fs_err::OpenOptions::new().write(true).open(&used).ok()?;
        fs_err::write(&used, "").ok()?;
        Some(Template { dir })
    }

    /// Makes the template of this shape. The caller sees to it that no two
    /// tasks make one at the same time.
    pub(crate) async fn build(&self, shape: Shape) -> Result<Template, BuildTemplateError> {
        fs_err::create_dir_all(&self.dir)?;
        self.remove_surplus()?;
        let build = Build::begin(self, shape)?;
        let result = build.run().await;
        let cleaned = build.clean_up().await;
        match result {
            Ok(()) => cleaned?,
            Err(error) => {
                fs_err::remove_dir_all(&build.dir).ok();
                return Err(error);
            }
        }
        let dir = self.dir.join(self.key(shape));
        fs_err::rename(&build.dir, &dir)?;
        Ok(Template { dir })
    }

    /// How long the same VM takes from its start to its agent's first answer,
    /// without a template; for comparison.
    pub(crate) async fn time_cold_boot(
        &self,
        shape: Shape,
    ) -> Result<Duration, BuildTemplateError> {
        fs_err::create_dir_all(&self.dir)?;
        let build = Build::begin(self, shape)?;
        let begin = Instant::now();
        let result = build.boot().await.map(drop);
        let duration = begin.elapsed();
        build.clean_up().await?;
        fs_err::remove_dir_all(&build.dir)?;
        result.map(|()| duration)
    }

    /// Removes what an interrupted build left.
    pub(crate) async fn reap_builds(&self) -> Result<(), BuildTemplateError> {
        let Ok(entries) = fs_err::read_dir(&self.dir) else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix("build-")) else {
                continue;
            };
            if is_under_way(&entry.path()) {
                continue;
            }
            vm::reap_name(id).await?;
            fs_err::remove_dir_all(entry.path())?;
        }
        Ok(())
    }

    fn remove_surplus(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs_err::read_dir(&self.dir)? {
            let dir = entry?.path();
            if let Ok(used) = fs_err::metadata(dir.join(USED_FILE)) {
                found.push((used.modified()?, dir));
            }
        }
        found.sort();
        // One more is about to be made.
        let surplus = (found.len() + 1).saturating_sub(self.count_max);
        for (_, dir) in found.into_iter().take(surplus) {
            // A VM that runs keeps the files it has open.
            fs_err::remove_dir_all(dir)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_a_template_of_its_own() {
        let templates = Templates {
            dir: PathBuf::new(),
            artefacts: Artefacts {
                key: "artefacts".to_owned(),
                engine_root: "/engine".into(),
                kernel: "/engine/boot/vmlinuz".into(),
                initramfs: "/initramfs".into(),
                image: "/image".into(),
            },
            slots: Arc::new(SlotPool::start(0).unwrap()),
            count_max: 1,
        };
        let shape = Shape {
            memory_mib: 1280,
            vcpu_count: 2,
            disk_gib: 10,
            isolation_is_kvm: false,
        };
        let others = [
            Shape {
                memory_mib: 768,
                ..shape
            },
            Shape {
                vcpu_count: 1,
                ..shape
            },
            Shape {
                disk_gib: 11,
                ..shape
            },
            Shape {
                isolation_is_kvm: true,
                ..shape
            },
        ];
        assert_eq!(templates.key(shape), templates.key(shape));
        for other in others {
            assert_ne!(templates.key(shape), templates.key(other), "{other:?}");
        }
    }
}
