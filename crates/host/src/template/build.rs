//! Makes one template: boots the VM, warms it, saves it, and takes away what
//! was only needed for that.

use super::{BuildTemplateError, EMPTY_DISK_FILE, LOCK_FILE, STATE_FILE, Templates, USED_FILE};
use crate::agent_channel;
use crate::cgroup::Cgroup;
use crate::launch::{Launch, boot_paths, give, random_uid};
use crate::monitor::{Monitor, MonitorError};
use crate::qemu::{
    Isolation, JAIL_IMAGE, JAIL_SANDBOX, JAIL_TEMPLATE, QEMU_IMG_PROGRAM, Shape, Start,
    hardware_address,
};
use crate::vm::{self, VmError, VmId};
use crate::words::{LastWords, Words};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tombolo_guest_proto::agent_client;
use tombolo_guest_proto::v1::{ConfigureNetworkRequest, HelloRequest, PrewarmRequest};
use tombolo_net::address;
use tombolo_sys::jail::{self, Access, Bind, JailSpec, Jailed};
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
const CONSOLE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the agent is given to notice that the host hung up.
const HANG_UP_SETTLE: Duration = Duration::from_secs(1);
/// How long a VM whose channel broke is given to be gone.
const END_SETTLE: Duration = Duration::from_secs(2);
const SAVE_TIMEOUT: Duration = Duration::from_mins(1);
/// What most programs in a sandbox begin with.
pub(super) const PREWARM_COMMANDS: [&str; 5] = [
    "true",
    "bash -lc 'ls -la / >/dev/null; cat /etc/passwd; id; sudo -n true'",
    "python3 -c 'import json, os, re, subprocess, sys, urllib.request'",
    "node -e 'require(\"fs\"); require(\"http\")'",
    "deno eval 'console.log(1)'",
];

/// One template being made, in a directory that no one takes for finished.
pub(super) struct Build<'a> {
    templates: &'a Templates,
    shape: Shape,
    id: VmId,
    pub(super) dir: PathBuf,
    uid: u32,
    /// Held until this process has done with the build, or has died.
    _lock: std::fs::File,
    running: parking_lot::Mutex<Option<Running>>,
}

struct Running {
    jailed: Jailed,
    cgroup: Cgroup,
}

impl<'a> Build<'a> {
    pub(super) fn begin(
        templates: &'a Templates,
        shape: Shape,
    ) -> Result<Self, BuildTemplateError> {
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
        })
    }

    pub(super) async fn run(&self) -> Result<(), BuildTemplateError> {
        let channel = self.boot().await?;
        let mut monitor = Monitor::connect(&self.dir).await?;
        self.configure_network(channel.clone()).await?;
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
    pub(super) async fn boot(&self) -> Result<Channel, BuildTemplateError> {
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
        // With nobody at the other end: nothing this guest sends arrives.
        let (tap, _unused) = self.templates.slots.take().await?.split();
        let started = launch.start_as(self.uid, tap)?;
        let pidfd = vm::watch(started.jailed.pidfd.try_clone()?)?;
        let words = started.words;
        *self.running.lock() = Some(Running {
            jailed: started.jailed,
            cgroup: started.cgroup,
        });
        let patience = match self.shape.isolation() {
            Isolation::Emulated => EMULATED_BOOT_TIMEOUT,
            Isolation::Kvm => KVM_BOOT_TIMEOUT,
        };
        let reached = async {
            let answer = reach_agent(&self.dir).await;
            if let Err(BuildTemplateError::Channel(_)) = answer {
                // A VM that ends closes its sockets before it is gone; then its
                // end is the better answer.
                tokio::time::sleep(END_SETTLE).await;
            }
            answer
        };
        tokio::select! {
            biased;
            _ = pidfd.readable() => Err(BuildTemplateError::Ended {
                last: LastWords::new(vm::exit(pidfd.get_ref()), Some(&words)),
            }),
            answer = timeout(patience, reached) => match answer {
                Ok(answer) => answer,
                Err(_elapsed) => Err(no_agent(patience, &words)),
            },
            () = self.kvm_stays_silent(&words) => Err(no_agent(KVM_SILENCE_TIMEOUT, &words)),
        }
    }

    /// Answers only if the guest runs on KVM and its kernel, which was told to
    /// talk from its first instruction on, has not said anything.
    async fn kvm_stays_silent(&self, words: &Words) {
        if self.shape.isolation() == Isolation::Kvm {
            let begin = Instant::now();
            while !words.console().contains(KERNEL_BANNER) {
                if begin.elapsed() >= KVM_SILENCE_TIMEOUT || self.kvm_gave_up().await {
                    return;
                }
                tokio::time::sleep(CONSOLE_POLL_INTERVAL).await;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Whether KVM met something it cannot run, and stopped the VM. One in such
    /// trouble may not answer at all.
    async fn kvm_gave_up(&self) -> bool {
        let answer = timeout(MONITOR_TIMEOUT, async {
            let mut monitor = Monitor::connect(&self.dir).await?;
            monitor.has_internal_error().await
        });
        matches!(answer.await, Ok(Ok(true)))
    }

    /// Tells the guest the addresses that it and all restored from it have.
    async fn configure_network(&self, channel: Channel) -> Result<(), BuildTemplateError> {
        let request = ConfigureNetworkRequest {
            addresses: vec![
                format!("{}/{}", address::GUEST_IPV4, address::IPV4_PREFIX_LEN),
                format!("{}/{}", address::GUEST_IPV6, address::IPV6_PREFIX_LEN),
            ],
            gateways: vec![
                address::GATEWAY_IPV4.to_string(),
                address::GATEWAY_IPV6.to_string(),
            ],
            name_servers: vec![address::GATEWAY_IPV4.to_string()],
            gateway_hardware_address: hardware_address(address::GATEWAY_MAC),
        };
        let mut agent = agent_client(channel);
        agent.configure_network(request).await.map_err(Box::new)?;
        Ok(())
    }

    async fn prewarm(&self, channel: Channel) -> Result<(), BuildTemplateError> {
        let request = PrewarmRequest {
            shell_commands: PREWARM_COMMANDS.map(str::to_owned).to_vec(),
            settle: true,
        };
        agent_client(channel)
            .prewarm(request)
            .await
            .map_err(Box::new)?;
        Ok(())
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

    /// Makes a copy-on-write layer `file` on top of `below`, a path in the jail, as
    /// large as the VM's disk. What is beyond the end of `below` reads as zeroes.
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
                .chain([
                    format!("{JAIL_SANDBOX}/{file}").into(),
                    format!("{}G", self.shape.disk_gib).into(),
                ])
                .collect(),
            descriptors: Vec::new(),
            stdout: writer.try_clone()?.into(),
            stderr: writer.into(),
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
    pub(super) async fn clean_up(&self) -> Result<(), BuildTemplateError> {
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
    let opened = agent_channel::open(dir, b"").await;
    let opened = opened.map_err(BuildTemplateError::Channel)?;
    let channel = agent_channel::channel(dir, Some(opened));
    agent_client(channel.clone())
        .hello(HelloRequest {})
        .await
        .map_err(Box::new)?;
    Ok(channel)
}

fn no_agent(patience: Duration, words: &Words) -> BuildTemplateError {
    BuildTemplateError::NoAgent {
        seconds: patience.as_secs(),
        last: LastWords::new(None, Some(words)),
    }
}

async fn save(monitor: &mut Monitor) -> Result<(), MonitorError> {
    monitor
        .save_to(&format!("{JAIL_SANDBOX}/{STATE_FILE}"))
        .await?;
    monitor.quit().await
}

/// Whether some process, of this node or another, still works on a build.
pub(super) fn is_under_way(dir: &Path) -> bool {
    let lock = std::fs::File::open(dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
