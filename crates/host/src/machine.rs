//! One VM that QEMU runs, as a node uses it.

use crate::agent_channel;
use crate::engine::Machine;
use crate::usage::Usage;
use crate::vm::Vm;
use crate::words::{LastWords, Words};
use std::io;
use std::sync::Arc;
use tombolo_diag::in_one_line;
use tombolo_ids::SandboxId;
use tombolo_net::HeldSlot;
use tonic::transport::Channel;

/// A VM run by QEMU.
#[derive(Debug)]
pub struct QemuVm {
    pub(crate) vm: Vm,
    pub(crate) agent: Channel,
    pub(crate) slot: Option<Arc<HeldSlot>>,
    /// None for one that an earlier run started, if they were not found again.
    pub(crate) words: Option<Words>,
}

impl QemuVm {
    /// A VM that an earlier run started. Without its network it still runs.
    pub(crate) fn adopted(vm: Vm) -> Self {
        let slot = vm.find_slot().map(Arc::new);
        if let Err(error) = &slot {
            tracing::error!(
                error = in_one_line(error),
                vm = vm.id.as_str(),
                "the network of a VM is lost"
            );
        }
        Self {
            agent: agent_channel::channel(&vm.dir, None),
            slot: slot.ok(),
            words: Words::of_process(vm.record.pid).ok(),
            vm,
        }
    }
}

impl Machine for QemuVm {
    fn memory_mib(&self) -> u32 {
        self.vm.record.memory_mib
    }

    fn owner(&self) -> Option<(&SandboxId, i64)> {
        let record = &self.vm.record;
        let sandbox = record.sandbox.as_ref()?;
        Some((sandbox, record.deadline_unix_millis))
    }

    fn set_owner(&mut self, sandbox: &SandboxId, deadline_unix_millis: i64) -> io::Result<()> {
        self.vm.record.sandbox = Some(sandbox.clone());
        self.vm.record.deadline_unix_millis = deadline_unix_millis;
        self.vm.save().map_err(io::Error::other)
    }

    fn network(&self) -> Option<Arc<HeldSlot>> {
        self.slot.clone()
    }

    fn agent(&self) -> Channel {
        self.agent.clone()
    }

    async fn ended(&self) {
        if let Err(error) = self.vm.ended().await {
            tracing::error!(%error, vm = self.vm.id.as_str(), "cannot watch a VM");
        }
    }

    fn last_words(&self) -> LastWords {
        LastWords::new(self.vm.exit(), self.words.as_ref())
    }

    fn usage(&self) -> Usage {
        self.vm.usage()
    }

    fn balance(&mut self) {
        if let Err(error) = self.vm.balance() {
            // Its group goes when it ends; otherwise it keeps the old weight.
            tracing::debug!(%error, vm = self.vm.id.as_str(), "cannot weigh a VM");
        }
    }

    async fn destroy(self) -> io::Result<()> {
        self.vm.destroy().await.map_err(io::Error::other)
    }
}
