//! Templates: VMs that were booted once and saved, so that a sandbox is a
//! restore and not a boot. A template is a directory: memory, device state, the
//! disk layer of the boot, and an empty layer for each sandbox to copy.
//!
//! The directory's name is the hash of everything that must agree between the
//! machine that was saved and one that is restored.

use crate::agent_channel;
use crate::artefacts::Artefacts;
use crate::cgroup::Cgroup;
use crate::launch::{Launch, StartVmError, boot_paths, give, random_uid, read_output};
use crate::monitor::{Monitor, MonitorError};
use crate::processor;
use crate::qemu::{
    self, Isolation, JAIL_IMAGE, JAIL_SANDBOX, JAIL_TEMPLATE, QEMU_IMG_PROGRAM, Shape, Start,
};
use crate::vm::{self, VmError, VmId};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tombolo_guest_proto::v1::agent_client::AgentClient;
use tombolo_guest_proto::v1::{HelloRequest, PrewarmRequest};
use tombolo_sys::jail::{self, Access, Bind, JailSpec, Jailed, SpawnError};
use tonic::transport::Channel;

/// How long a guest may take from power-on to its agent's answer.
const EMULATED_BOOT_TIMEOUT: Duration = Duration::from_mins(3);
/// The same on KVM, which may itself be run by an emulated processor.
const KVM_BOOT_TIMEOUT: Duration = Duration::from_mins(5);
/// A kernel on a KVM that works says something long before this.
const KVM_SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// The first words of a kernel, after the firmware's and the loader's.
const KERNEL_BANNER: &str = "Linux version";
/// A VM whose processors are stuck may not answer questions either.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(2);
const CONSOLE_KEPT_BYTES_MAX: usize = 16 * 1024;
const CONSOLE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the agent is given to notice that the host hung up.
const HANG_UP_SETTLE: Duration = Duration::from_secs(1);
const SAVE_TIMEOUT: Duration = Duration::from_mins(1);
/// Locked while a template is being made.
const LOCK_FILE: &str = "build.lock";
const STATE_FILE: &str = "state";
const EMPTY_DISK_FILE: &str = "empty.qcow2";
/// Its presence says that a template is whole; its time says when it was used.
const USED_FILE: &str = "used";
/// What most programs in a sandbox begin with.
const PREWARM_COMMANDS: [&str; 5] = [
    "true",
    "bash -lc 'ls -la / >/dev/null; cat /etc/passwd; id; sudo -n true'",
    "python3 -c 'import json, os, re, subprocess, sys, urllib.request'",
    "node -e 'require(\"fs\"); require(\"http\")'",
    "deno eval 'console.log(1)'",
];

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
    #[error("the guest did not boot within {seconds} s; its console ends: {console}")]
    NoAgent {
        /// How long it was given.
        seconds: u64,
        /// The last of what its kernel wrote.
        console: String,
    },
    /// QEMU ended during the boot.
    #[error("QEMU ended during the boot: {words}")]
    Ended {
        /// What it wrote.
        words: String,
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
    /// More are removed, the longest unused first.
    pub(crate) count_max: usize,
}

impl Templates {
    fn key(&self, shape: Shape) -> String {
        let arguments = qemu::arguments(shape, &Start::Boot(boot_paths(&self.artefacts)));
        let mut hash = Sha256::new();
        hash.update(self.artefacts.key.as_bytes());
        hash.update(format!("{arguments:?}{PREWARM_COMMANDS:?}").as_bytes());
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

/// One template being made, in a directory that no one takes for finished.
struct Build<'a> {
    templates: &'a Templates,
    shape: Shape,
    id: VmId,
    dir: PathBuf,
    uid: u32,
    /// Held until this process has done with the build, or has died.
    _lock: std::fs::File,
    running: parking_lot::Mutex<Option<Running>>,
    /// QEMU gives each part of the console once.
    console_text: parking_lot::Mutex<String>,
}

struct Running {
    jailed: Jailed,
    cgroup: Cgroup,
}

impl<'a> Build<'a> {
    fn begin(templates: &'a Templates, shape: Shape) -> Result<Self, BuildTemplateError> {
        let id = VmId::random()?;
        let dir = templates.dir.join(format!("build-{}", id.as_str()));
        let uid = random_uid()?;
        fs_err::create_dir(&dir)?;
        give(&dir, uid, 0o755)?;
        let lock = std::fs::File::create(dir.join(LOCK_FILE))?;
        lock.lock()?;
        Ok(Self {
            _lock: lock,
            templates,
            shape,
            id,
            dir,
            uid,
            running: parking_lot::Mutex::new(None),
            console_text: parking_lot::Mutex::default(),
        })
    }

    async fn run(&self) -> Result<(), BuildTemplateError> {
        let channel = self.boot().await?;
        let mut monitor = Monitor::connect(&self.dir).await?;
        self.prewarm(channel.clone()).await?;
        // Ends the conversation. An agent that was saved before it noticed finds
        // the next one all the same, only later.
        drop(channel);
        tokio::time::sleep(HANG_UP_SETTLE).await;
        timeout(SAVE_TIMEOUT, save(&mut monitor)).await??;
        self.add_empty_layer().await?;
        for file in ["ram", STATE_FILE, vm::DISK_FILE, EMPTY_DISK_FILE] {
            let path = self.dir.join(file);
            give(&path, 0, 0o444)?;
        }
        give(&self.dir, 0, 0o755)?;
        fs_err::write(self.dir.join(USED_FILE), "")?;
        Ok(())
    }

    /// Boots the guest and answers a channel to its agent.
    async fn boot(&self) -> Result<Channel, BuildTemplateError> {
        self.make_layer(
            &format!("{JAIL_IMAGE}/{}", self.image_name()),
            vm::DISK_FILE,
        )
        .await?;
        let launch = Launch {
            artefacts: &self.templates.artefacts,
            name: self.id.as_str(),
            vm_dir: &self.dir,
            files_dir: &self.dir,
            template_dir: None,
            shape: self.shape,
            start: Start::Boot(boot_paths(&self.templates.artefacts)),
        };
        let started = launch.start_as(self.uid)?;
        let pidfd = vm::watch(started.jailed.pidfd.try_clone()?)?;
        *self.running.lock() = Some(Running {
            jailed: started.jailed,
            cgroup: started.cgroup,
        });
        let patience = match self.shape.isolation() {
            Isolation::Emulated => EMULATED_BOOT_TIMEOUT,
            Isolation::Kvm => KVM_BOOT_TIMEOUT,
        };
        tokio::select! {
            answer = timeout(patience, reach_agent(&self.dir)) => match answer {
                Ok(answer) => answer,
                Err(_elapsed) => Err(self.no_agent(patience).await),
            },
            _ = pidfd.readable() => Err(BuildTemplateError::Ended {
                words: read_output(&started.output),
            }),
            () = self.kvm_stays_silent() => Err(self.no_agent(KVM_SILENCE_TIMEOUT).await),
        }
    }

    /// Answers only if the guest runs on KVM and its kernel, which was told to
    /// talk from its first instruction on, has not said anything.
    async fn kvm_stays_silent(&self) {
        if self.shape.isolation() == Isolation::Kvm {
            let begin = Instant::now();
            while !self.console().await.contains(KERNEL_BANNER) {
                if begin.elapsed() >= KVM_SILENCE_TIMEOUT || self.kvm_gave_up().await {
                    return;
                }
                tokio::time::sleep(CONSOLE_POLL_INTERVAL).await;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Whether KVM met something it cannot run, and stopped the VM.
    async fn kvm_gave_up(&self) -> bool {
        self.ask_monitor(async |monitor| monitor.has_internal_error().await)
            .await
            .unwrap_or(false)
    }

    /// Asks a VM in trouble, which may not answer at all.
    async fn ask_monitor<T>(
        &self,
        question: impl AsyncFnOnce(&mut Monitor) -> Result<T, MonitorError>,
    ) -> Option<T> {
        let answer = timeout(MONITOR_TIMEOUT, async {
            let mut monitor = Monitor::connect(&self.dir).await?;
            question(&mut monitor).await
        });
        answer.await.ok()?.ok()
    }

    async fn no_agent(&self, patience: Duration) -> BuildTemplateError {
        BuildTemplateError::NoAgent {
            seconds: patience.as_secs(),
            // Escaped, since it is a guest's and may end on a terminal.
            console: self.console().await.escape_debug().to_string(),
        }
    }

    async fn prewarm(&self, channel: Channel) -> Result<(), BuildTemplateError> {
        let request = PrewarmRequest {
            shell_commands: PREWARM_COMMANDS.map(str::to_owned).to_vec(),
            settle: true,
        };
        AgentClient::new(channel)
            .prewarm(request)
            .await
            .map_err(Box::new)?;
        Ok(())
    }

    /// What the guest has written on its console so far, the last part of it.
    async fn console(&self) -> String {
        let new = self.ask_monitor(async |monitor| monitor.read_console().await);
        let new = new.await.unwrap_or_default();
        let mut text = self.console_text.lock();
        text.push_str(&new);
        let excess = text.len().saturating_sub(CONSOLE_KEPT_BYTES_MAX);
        let excess = text.ceil_char_boundary(excess);
        text.drain(..excess);
        text.clone()
    }

    fn image_name(&self) -> String {
        let name = self.templates.artefacts.image.file_name();
        name.map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    async fn add_empty_layer(&self) -> Result<(), BuildTemplateError> {
        let below = format!("{JAIL_TEMPLATE}/{}", vm::DISK_FILE);
        self.make_layer(&below, EMPTY_DISK_FILE).await
    }

    /// Makes a copy-on-write layer `file` on top of `below`, a path in the jail.
    async fn make_layer(&self, below: &str, file: &str) -> Result<(), BuildTemplateError> {
        let (mut reader, writer) = io::pipe()?;
        let image_dir = self.templates.artefacts.image.parent();
        let bind = |source: &Path, target: &str, access| Bind {
            source: source.to_owned(),
            target: target.into(),
            access,
        };
        let jailed = jail::spawn(JailSpec {
            root: self.templates.artefacts.engine_root.clone(),
            binds: vec![
                bind(
                    image_dir.unwrap_or(Path::new("/")),
                    JAIL_IMAGE,
                    Access::Read,
                ),
                bind(&self.dir, JAIL_TEMPLATE, Access::Read),
                bind(&self.dir, JAIL_SANDBOX, Access::Write),
            ],
            with_kvm: false,
            uid: self.uid,
            gid: self.uid,
            cgroup_procs: Vec::new(),
            program: QEMU_IMG_PROGRAM.into(),
            args: ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below]
                .map(Into::into)
                .into_iter()
                .chain([format!("{JAIL_SANDBOX}/{file}").into()])
                .collect(),
            descriptors: Vec::new(),
            output: writer.into(),
        })?;
        let words = tokio::task::spawn_blocking(move || {
            let mut words = String::new();
            let answer = reader.read_to_string(&mut words);
            jail::wait(jailed.pid);
            answer.map(|_| words)
        })
        .await
        .map_err(io::Error::other)??;
        if self.dir.join(file).exists() {
            Ok(())
        } else {
            Err(BuildTemplateError::ImageTool { words })
        }
    }

    /// Ends the VM if it still runs, and removes all but the files.
    async fn clean_up(&self) -> Result<(), BuildTemplateError> {
        let running = self.running.lock().take();
        if let Some(Running { jailed, cgroup }) = running {
            jail::pidfd_kill(&jailed.pidfd)?;
            let pid = jailed.pid;
            tokio::task::spawn_blocking(move || jail::wait(pid))
                .await
                .map_err(io::Error::other)?;
            cgroup.remove().await.map_err(VmError::from)?;
        }
        for socket in [agent_channel::AGENT_SOCKET, crate::monitor::MONITOR_SOCKET] {
            fs_err::remove_file(self.dir.join(socket)).ok();
        }
        Ok(())
    }
}

/// Opens the conversation however long the guest takes to boot, then asks the
/// agent who it is.
async fn reach_agent(dir: &Path) -> Result<Channel, BuildTemplateError> {
    let channel = agent_channel::channel(dir, Some(agent_channel::open(dir).await?));
    AgentClient::new(channel.clone())
        .hello(HelloRequest {})
        .await
        .map_err(Box::new)?;
    Ok(channel)
}

async fn save(monitor: &mut Monitor) -> Result<(), MonitorError> {
    monitor
        .save_to(&format!("{JAIL_SANDBOX}/{STATE_FILE}"))
        .await?;
    monitor.quit().await
}

/// Whether some process, of this node or another, still works on a build.
fn is_under_way(dir: &Path) -> bool {
    let lock = std::fs::File::open(dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
