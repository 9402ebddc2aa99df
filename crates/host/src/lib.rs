//! The outside world of a node: QEMU, templates, disks, jails, control groups
//! and the channel to the agent in a guest. Only the node program may call it.
//!
//! [`Engine`] is the seam: [`QemuEngine`] is the real one, and a node can be
//! tested with another. Everything a guest can influence here is bounded.

pub mod agent_channel;
mod artefacts;
mod cgroup;
mod engine;
mod launch;
mod machine;
mod monitor;
mod probe;
mod processor;
mod qemu;
mod short_path;
mod template;
mod usage;
mod vm;
mod words;

pub use artefacts::{Artefacts, LoadArtefactsError};
pub use cgroup::{CgroupError, remove_empty_parent};
pub use engine::{
    AdoptError, Engine, EngineConfig, LaunchError, Machine, QemuEngine, StartEngineError,
};
pub use launch::StartVmError;
pub use machine::QemuVm;
pub use monitor::MonitorError;
pub use probe::{IsolationChoice, ProbeError};
pub use qemu::Isolation;
pub use template::BuildTemplateError;
pub use usage::Usage;
pub use vm::{VmError, VmId};
pub use words::{Exit, LastWords};
