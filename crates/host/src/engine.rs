//! The seam between a node and whatever runs its guests. A node knows only
//! [`Engine`] and [`Machine`]; [`QemuEngine`] restores QEMU VMs from templates.

use crate::agent_channel;
use crate::artefacts::Artefacts;
use crate::launch::{Launch, StartVmError, give, random_uid};
use crate::machine::QemuVm;
use crate::monitor::Monitor;
use crate::probe::{self, IsolationChoice, ProbeError, Verdict};
use crate::qemu::{Isolation, Shape, Start};
use crate::template::{BuildTemplateError, Template, Templates};
use crate::usage::Usage;
use crate::vm::{DISK_FILE, FILES_DIR, Record, Vm, VmError, VmId, reap, start_ticks};
use crate::words::LastWords;
use prost::Message;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tombolo_guest_proto::v1::PersonalizeRequest;
use tombolo_ids::SandboxId;
use tombolo_net::{HeldSlot, MakeSlotError, Slot, SlotPool, TakeSlotError};
use tonic::transport::Channel;

/// Requests are rounded up to these sizes, so that a few templates serve all;
/// beyond the last, to a multiple of it.
const MEMORY_STEPS_MIB: [u32; 8] = [768, 1024, 1280, 1536, 2048, 3072, 4096, 8192];
/// How long a restored guest may take to have its identity.
const RESTORE_TIMEOUT: Duration = Duration::from_mins(1);

/// Makes machines and finds those it made before.
pub trait Engine: Send + Sync + 'static {
    /// One guest.
    type Machine: Machine;

    /// What separates its guests from the host, and why that was chosen.
    fn isolation(&self) -> (Isolation, &str);

    /// The memory a request of this size is granted.
    fn granted_memory_mib(&self, memory_mib: u32) -> u32;

    /// A network for a machine that is about to be launched.
    fn network(&self) -> impl Future<Output = Result<Slot, TakeSlotError>> + Send;

    /// Makes a machine that belongs to nobody yet, has this network and identity,
    /// and whose agent answers.
    fn launch(
        &self,
        memory_mib: u32,
        network: Slot,
        identity: PersonalizeRequest,
    ) -> impl Future<Output = Result<Self::Machine, LaunchError>> + Send;

    /// Finds the machines that belong to a sandbox and removes whatever else
    /// an earlier run left.
    fn adopt_all(&self) -> impl Future<Output = Result<Vec<Self::Machine>, AdoptError>> + Send;
}

/// One guest, running until [`Machine::destroy`] or its own end.
pub trait Machine: Send + Sync + 'static {
    /// Its size.
    fn memory_mib(&self) -> u32;
    /// Whose it is.
    fn owner(&self) -> Option<(&SandboxId, i64)>;
    /// Makes it a sandbox's, durably, until a moment in milliseconds since the
    /// epoch; or moves that moment.
    fn set_owner(&mut self, sandbox: &SandboxId, deadline_unix_millis: i64) -> io::Result<()>;
    /// Its network, unless it was lost.
    fn network(&self) -> Option<Arc<HeldSlot>>;
    /// A channel to its agent that survives the agent's hanging up.
    fn agent(&self) -> Channel;
    /// Answers when it has ended by itself.
    fn ended(&self) -> impl Future<Output = ()> + Send;
    /// What is known of the end, once it has ended by itself.
    fn last_words(&self) -> LastWords;
    /// What it uses now.
    fn usage(&self) -> Usage;
    /// Weighs it anew against the others, by what it used since the last time:
    /// to be called about twice a second while somebody uses it.
    fn balance(&mut self);
    /// Ends it and removes everything of it.
    fn destroy(self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no template and none could be made.
    #[error("cannot make a template")]
    Template(#[from] BuildTemplateError),
    /// Its process could not be started.
    #[error("cannot start a VM")]
    Start(#[from] StartVmError),
    /// Its record could not be kept.
    #[error("cannot keep a VM")]
    Keep(#[from] VmError),
    /// QEMU ended instead of restoring.
    #[error("QEMU ended instead of restoring a VM: {last}")]
    Ended {
        /// What it left.
        last: LastWords,
    },
    /// The restored guest does not answer.
    #[error("a restored guest does not answer")]
    NoAnswer(#[source] io::Error),
}

/// Why earlier machines could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The directory of VMs could not be read.
    #[error("cannot look for VMs of an earlier run")]
    List(#[from] io::Error),
    /// A leftover could not be removed.
    #[error("cannot remove what an earlier run left")]
    Reap(#[from] VmError),
    /// A half-made template could not be removed.
    #[error("cannot remove a half-made template")]
    Template(#[from] BuildTemplateError),
}

/// What a [`QemuEngine`] is made from.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Everything of this node is below it.
    pub state_dir: PathBuf,
    /// What set-up left.
    pub artefacts: Artefacts,
    /// Virtual processors of each VM.
    pub vcpu_count: u32,
    /// The disk of each VM: at least as large as the image.
    pub disk_gib: u32,
    /// The size whose template is made at the start.
    pub default_memory_mib: u32,
    /// The most templates kept on disk.
    pub template_count_max: usize,
    /// Networks that wait for machines.
    pub slot_count: usize,
}

/// VMs restored from templates by QEMU.
#[derive(Debug)]
pub struct QemuEngine {
    config: EngineConfig,
    verdict: Verdict,
    templates: Templates,
    slots: Arc<SlotPool>,
    /// One lock per shape, so that a template is made once however many wait.
    building: Mutex<HashMap<Shape, Arc<Mutex<()>>>>,
}

impl QemuEngine {
    /// Settles on the isolation and makes the default template, as far as an
    /// earlier start has not, and removes what an interrupted one left. Only
    /// one may run on a state directory.
    pub async fn start(
        config: EngineConfig,
        choice: IsolationChoice,
    ) -> Result<Self, StartEngineError> {
        let engine = Self::settle(config, choice).await?;
        engine.templates.reap_builds().await?;
        let memory_mib = granted(engine.config.default_memory_mib);
        engine.template(engine.shape(memory_mib)).await?;
        Ok(engine)
    }

    /// Settles on the isolation only: may run beside another engine.
    pub async fn settle(
        config: EngineConfig,
        choice: IsolationChoice,
    ) -> Result<Self, StartEngineError> {
        let vms = config.state_dir.join("vms");
        fs_err::create_dir_all(&vms)?;
        give(&vms, 0, 0o711)?;
        let slots = Arc::new(SlotPool::start(config.slot_count)?);
        let templates = Templates {
            dir: config.state_dir.join("templates"),
            artefacts: config.artefacts.clone(),
            slots: Arc::clone(&slots),
            count_max: config.template_count_max,
        };
        let shape = Shape {
            memory_mib: granted(config.default_memory_mib),
            vcpu_count: config.vcpu_count,
            disk_gib: config.disk_gib,
            isolation_is_kvm: false,
        };
        let verdict = probe::settle(choice, &templates, shape, &config.state_dir).await?;
        Ok(Self {
            config,
            verdict,
            templates,
            slots,
            building: Mutex::default(),
        })
    }

    /// How long the same VM takes to boot without a template.
    pub async fn time_cold_boot(&self) -> Result<Duration, BuildTemplateError> {
        let shape = self.shape(granted(self.config.default_memory_mib));
        self.templates.time_cold_boot(shape).await
    }

    fn shape(&self, memory_mib: u32) -> Shape {
        Shape {
            memory_mib,
            vcpu_count: self.config.vcpu_count,
            disk_gib: self.config.disk_gib,
            isolation_is_kvm: self.verdict.isolation == Isolation::Kvm,
        }
    }

    async fn template(&self, shape: Shape) -> Result<Template, BuildTemplateError> {
        let lock = self.building.lock().await.entry(shape).or_default().clone();
        let _only_one = lock.lock().await;
        if let Some(template) = self.templates.find(shape) {
            return Ok(template);
        }
        tracing::info!(
            memory_mib = shape.memory_mib,
            isolation = shape.isolation().as_str(),
            "making a template"
        );
        self.templates.build(shape).await
    }

    fn vms_dir(&self) -> PathBuf {
        self.config.state_dir.join("vms")
    }

    /// Lays out the files of a new VM and starts it.
    fn start_vm(
        &self,
        id: VmId,
        shape: Shape,
        template: &Template,
        network: Slot,
    ) -> Result<QemuVm, LaunchError> {
        let dir = self.vms_dir().join(id.as_str());
        let files_dir = dir.join(FILES_DIR);
        let uid = random_uid().map_err(StartVmError::from)?;
        let lay_out = || -> io::Result<()> {
            fs_err::create_dir(&dir)?;
            give(&dir, 0, 0o700)?;
            fs_err::create_dir(&files_dir)?;
            give(&files_dir, uid, 0o700)?;
            let disk = files_dir.join(DISK_FILE);
            template.copy_empty_disk(&disk)?;
            give(&disk, uid, 0o600)
        };
        lay_out().map_err(StartVmError::from)?;
        let launch = Launch {
            artefacts: &self.config.artefacts,
            name: id.as_str(),
            vm_dir: &dir,
            files_dir: &files_dir,
            template_dir: Some(&template.dir),
            shape,
            start: Start::Restore,
        };
        let (tap, slot) = network.split();
        let started = launch.start_as(uid, tap)?;
        let record = Record {
            sandbox: None,
            pid: started.jailed.pid,
            pid_start_ticks: start_ticks(started.jailed.pid).unwrap_or(0),
            memory_mib: shape.memory_mib,
            isolation: shape.isolation(),
            deadline_unix_millis: 0,
        };
        let vm = Vm::new(
            id,
            dir.clone(),
            record,
            started.cgroup,
            started.jailed.pidfd,
        )?;
        Ok(QemuVm {
            agent: agent_channel::channel(&dir, None),
            vm,
            slot: Some(Arc::new(slot)),
            words: Some(started.words),
        })
    }

    /// Waits until the device state is loaded and the agent has its identity.
    async fn restore(
        &self,
        machine: &mut QemuVm,
        identity: &PersonalizeRequest,
    ) -> Result<(), LaunchError> {
        let dir = &machine.vm.dir;
        let introduction = identity.encode_to_vec();
        let restore = async {
            let mut monitor = Monitor::connect(dir).await?;
            monitor.restore_from(&Template::jail_state_path()).await
        };
        let ready = async {
            restore.await.map_err(StartVmError::from)?;
            agent_channel::open(dir, &introduction)
                .await
                .map_err(LaunchError::NoAnswer)
        };
        let opened = tokio::select! {
            answer = timeout(RESTORE_TIMEOUT, ready) => match answer {
                Ok(answer) => answer,
                Err(elapsed) => Err(LaunchError::NoAnswer(
                    io::Error::new(io::ErrorKind::TimedOut, elapsed),
                )),
            },
            () = machine.ended() => Err(LaunchError::Ended {
                last: machine.last_words(),
            }),
        }?;
        machine.agent = agent_channel::channel(dir, Some(opened));
        Ok(())
    }
}

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartEngineError {
    /// Its directories could not be made.
    #[error("cannot lay out the node's directories")]
    Files(#[from] io::Error),
    /// No isolation could be settled on.
    #[error("cannot settle on an isolation")]
    Probe(#[from] ProbeError),
    /// No networks can be made.
    #[error("cannot make networks")]
    Network(#[from] MakeSlotError),
    /// The default template could not be made.
    #[error("cannot make the default template")]
    Template(#[from] BuildTemplateError),
}

impl Engine for QemuEngine {
    type Machine = QemuVm;

    fn isolation(&self) -> (Isolation, &str) {
        (self.verdict.isolation, &self.verdict.reason)
    }

    fn granted_memory_mib(&self, memory_mib: u32) -> u32 {
        granted(memory_mib)
    }

    async fn network(&self) -> Result<Slot, TakeSlotError> {
        self.slots.take().await
    }

    async fn launch(
        &self,
        memory_mib: u32,
        network: Slot,
        identity: PersonalizeRequest,
    ) -> Result<QemuVm, LaunchError> {
        let shape = self.shape(granted(memory_mib));
        let template = self.template(shape).await?;
        let id = VmId::random().map_err(StartVmError::from)?;
        let mut machine = match self.start_vm(id.clone(), shape, &template, network) {
            Ok(machine) => machine,
            Err(error) => {
                let dir = self.vms_dir().join(id.as_str());
                reap(&id, &dir).await?;
                return Err(error);
            }
        };
        match self.restore(&mut machine, &identity).await {
            Ok(()) => Ok(machine),
            Err(error) => {
                let last = machine.last_words();
                tracing::warn!(vm = id.as_str(), %last, "a VM does not come up and is removed");
                machine.vm.destroy().await?;
                Err(error)
            }
        }
    }

    async fn adopt_all(&self) -> Result<Vec<QemuVm>, AdoptError> {
        let mut adopted = Vec::new();
        for entry in fs_err::read_dir(self.vms_dir())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(VmId::from_directory_name) else {
                continue;
            };
            match Vm::adopt(id.clone(), entry.path()) {
                Ok(Some(vm)) if vm.record.sandbox.is_some() => adopted.push(QemuVm::adopted(vm)),
                // Dead, never claimed, or never recorded: nobody misses it.
                _ => reap(&id, &entry.path()).await?,
            }
        }
        Ok(adopted)
    }
}

fn granted(memory_mib: u32) -> u32 {
    let largest = MEMORY_STEPS_MIB[MEMORY_STEPS_MIB.len() - 1];
    MEMORY_STEPS_MIB
        .into_iter()
        .find(|&step| step >= memory_mib)
        .unwrap_or_else(|| memory_mib.div_ceil(largest) * largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_granted_in_steps_and_never_less() {
        for (asked, given) in [
            (1, 768),
            (768, 768),
            (769, 1024),
            (1280, 1280),
            (4096, 4096),
            (8193, 16_384),
        ] {
            assert_eq!(granted(asked), given, "{asked}");
        }
    }
}
