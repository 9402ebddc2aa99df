//! Ring four for the engine: real VMs, restored from a real template. Needs
//! root and what `tombolo setup` leaves in `TOMBOLO_STATE_DIR`. With
//! `TOMBOLO_TEST_ISOLATION=kvm` the same tests run on KVM and fail without it.

#![expect(
    clippy::tests_outside_test_module,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this file is a test, and a test fails by panicking"
)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tombolo_guest_proto::v1::agent_client::AgentClient;
use tombolo_guest_proto::v1::{
    OutputRequest, PersonalizeRequest, SpawnRequest, Stdio, WaitReply, WaitRequest,
};
use tombolo_host::{
    Artefacts, Engine, EngineConfig, Exit, Isolation, IsolationChoice, Machine, QemuEngine, QemuVm,
};
use tombolo_ids::{Region, SandboxId};
use tombolo_net::HeldSlot;

/// The size whose template set-up makes.
const MEMORY_MIB: u32 = 1280;
const PATIENCE: Duration = Duration::from_mins(2);

/// An engine on a state directory of its own, with the shared artefacts.
struct Rig {
    state: tempfile::TempDir,
    engine: QemuEngine,
}

fn shared_state() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness names the state directory"
    )]
    let state = std::env::var("TOMBOLO_STATE_DIR");
    state
        .expect("TOMBOLO_STATE_DIR names a state directory that is set up; `cargo xtask test` does")
        .into()
}

fn choice() -> IsolationChoice {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness chooses the isolation"
    )]
    match std::env::var("TOMBOLO_TEST_ISOLATION").as_deref() {
        Ok("kvm") => IsolationChoice::Kvm,
        _ => IsolationChoice::Emulated,
    }
}

fn config(state_dir: &Path) -> EngineConfig {
    EngineConfig {
        state_dir: state_dir.to_owned(),
        artefacts: Artefacts::load(&shared_state()).unwrap(),
        vcpu_count: 2,
        disk_gib: 10,
        default_memory_mib: MEMORY_MIB,
        template_count_max: 4,
        slot_count: 1,
    }
}

async fn start(config: EngineConfig) -> QemuEngine {
    let engine = timeout(PATIENCE * 3, QemuEngine::start(config, choice()));
    engine.await.unwrap().unwrap()
}

impl Rig {
    async fn new() -> Self {
        // What the engine notices belongs to what a failure says. Set up by the first.
        tombolo_diag::init_logging("info", tombolo_diag::LogFormat::Text).ok();
        // Where templates fit: memory files are sparse but not small.
        let state = tempfile::tempdir_in("/var/tmp").unwrap();
        // The template that set-up made serves every test.
        let templates = shared_state().join("templates");
        fs_err::create_dir_all(&templates).unwrap();
        std::os::unix::fs::symlink(templates, state.path().join("templates")).unwrap();
        let engine = start(config(state.path())).await;
        Self { state, engine }
    }

    async fn launch(&self, name: &str) -> QemuVm {
        let network = self.engine.network().await.unwrap();
        let machine = self.engine.launch(MEMORY_MIB, network, identity(name));
        machine.await.unwrap()
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let vms = fs_err::read_dir(self.state.path().join("vms")).unwrap();
        vms.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Runs a shell command in a guest; answers how it ended and what it wrote.
async fn run(machine: &impl Machine, script: &str) -> (WaitReply, String) {
    let mut agent = AgentClient::new(machine.agent());
    let spawned = agent.spawn(SpawnRequest {
        command: "sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        stdout: Stdio::Piped.into(),
        ..SpawnRequest::default()
    });
    let pid = timeout(PATIENCE, spawned)
        .await
        .unwrap()
        .unwrap()
        .into_inner()
        .pid;
    let request = OutputRequest {
        pid,
        ..OutputRequest::default()
    };
    let mut chunks = agent.output(request).await.unwrap().into_inner();
    let mut output = Vec::new();
    loop {
        match timeout(PATIENCE, chunks.message()).await.unwrap() {
            Ok(Some(chunk)) => output.extend_from_slice(&chunk.data),
            Ok(None) => break,
            // What a VM says when it dies is all there is to find out why.
            Err(status) => panic!("{script}: {status}; {}", machine.last_words()),
        }
    }
    let ended = timeout(PATIENCE, agent.wait(WaitRequest { pid })).await;
    let output = String::from_utf8(output).unwrap();
    (ended.unwrap().unwrap().into_inner(), output)
}

async fn say(machine: &impl Machine, script: &str) -> String {
    let (ended, output) = run(machine, script).await;
    assert_eq!(ended.code, 0, "{script}: {output}");
    output
}

/// Connects from the guest to an address far away, of the same family as the
/// guest's own, and takes the connection in its place. Answers who came.
async fn greet(machine: &QemuVm, slot: &HeldSlot, guest: &str) -> String {
    let sockets = slot.sockets().unwrap();
    let (socket, there) = if guest.contains(':') {
        (&sockets.tcp6, "2001:4860:4860::8888")
    } else {
        (&sockets.tcp4, "93.184.216.34")
    };
    let listener = std::net::TcpListener::from(socket.try_clone().unwrap());
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let connect = format!(
        "python3 -c 'import socket; socket.create_connection((\"{there}\", 4443)).send(b\"hello\")'"
    );
    let (accepted, _) = tokio::join!(timeout(PATIENCE, listener.accept()), say(machine, &connect));
    let (mut flow, from) = accepted.unwrap().unwrap();
    assert_eq!(
        flow.local_addr().unwrap(),
        (there.parse::<IpAddr>().unwrap(), 4443).into()
    );
    let mut words = String::new();
    flow.read_to_string(&mut words).await.unwrap();
    assert_eq!(words, "hello");
    from.ip().to_string()
}

fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

fn identity(name: &str) -> PersonalizeRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    PersonalizeRequest {
        entropy: name.repeat(32).into_bytes().into(),
        unix_time_nanos: i64::try_from(now.as_nanos()).unwrap(),
        hostname: name.to_owned(),
        machine_id: format!("{:032x}", u128::from_be_bytes(padded(name))),
        env: [("NAME".to_owned(), name.to_owned())].into(),
        ..PersonalizeRequest::default()
    }
}

#[tokio::test]
async fn a_restored_vm_runs_code_as_its_user_and_leaves_nothing() {
    let rig = Rig::new().await;
    let machine = rig.launch("alpha").await;
    for (script, expected) in [
        ("id -un; pwd; echo $HOME", "app\n/home/app\n/home/app\n"),
        ("sudo id -u", "0\n"),
        ("hostname; echo $NAME", "alpha\nalpha\n"),
        ("echo kept > f && cat f", "kept\n"),
        ("python3 -c 'print(6 * 7)'", "42\n"),
        ("node -p '6 * 7'", "42\n"),
        ("nproc", "2\n"),
        ("sudo kill -9 1; sudo kill -TERM 1; echo alive", "alive\n"),
        // One card, which is plugged into nothing but what the node holds.
        ("ls /sys/class/net", "eth0\nlo\n"),
    ] {
        assert_eq!(say(&machine, script).await, expected, "{script}");
    }
    let (ended, _) = run(&machine, "exit 7").await;
    assert_eq!((ended.code, ended.signal), (7, 0));
    let (ended, _) = run(&machine, "kill -9 $$").await;
    assert_eq!((ended.code, ended.signal), (137, 9));

    let clock: u64 = say(&machine, "date +%s").await.trim().parse().unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(
        clock.abs_diff(now) <= 60,
        "the guest's clock says {clock}, not {now}"
    );

    let usage = machine.usage();
    assert!(usage.cpu_nanos > 0 && usage.memory_private_bytes > 0);
    machine.destroy().await.unwrap();
    assert_eq!(rig.leftovers(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_vm_has_the_processors_and_the_disk_that_are_configured() {
    let state = tempfile::tempdir_in("/var/tmp").unwrap();
    let engine = start(EngineConfig {
        vcpu_count: 1,
        disk_gib: 24,
        ..config(state.path())
    });
    let engine = engine.await;
    let rig = Rig { state, engine };
    let machine = rig.launch("alpha").await;
    for (script, expected) in [
        ("nproc", "1\n"),
        // Within what the file system needs for itself.
        ("df -BG --output=size / | tail -n 1 | tr -d ' '", "24G\n"),
        // More than the image has; nothing is written for it.
        ("fallocate -l 20G f && stat -c %s f", "21474836480\n"),
    ] {
        assert_eq!(say(&machine, script).await, expected, "{script}");
    }
    machine.destroy().await.unwrap();
}

#[tokio::test]
async fn two_vms_of_one_template_share_no_identity_and_no_random_stream() {
    let rig = Rig::new().await;
    let (first, second) = tokio::join!(rig.launch("alpha"), rig.launch("bravo"));
    for script in [
        "head -c 32 /dev/urandom | sha256sum",
        "cat /proc/sys/kernel/random/uuid",
        "python3 -c 'import os; print(os.getrandom(16).hex())'",
        "cat /etc/machine-id",
        "hostname",
    ] {
        let (one, other) = tokio::join!(say(&first, script), say(&second, script));
        assert_ne!(one, other, "{script}");
    }
    // What one writes, the other does not see.
    say(&first, "echo secret > /tmp/mine; sync").await;
    let (ended, _) = run(&second, "cat /tmp/mine").await;
    assert_ne!(ended.code, 0);
    first.destroy().await.unwrap();
    second.destroy().await.unwrap();
}

#[tokio::test]
async fn a_vm_outlives_its_node_and_is_taken_over() {
    let mut rig = Rig::new().await;
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    let mut machine = rig.launch("alpha").await;
    machine.set_owner(&id, 42).unwrap();
    say(&machine, "sleep 1000 >/dev/null & echo $! > /tmp/pid").await;
    let unclaimed = rig.launch("alpha").await;
    let slot = machine.network().unwrap();
    assert_eq!(greet(&machine, &slot, "100.64.0.2").await, "100.64.0.2");
    // As if the node were gone, and the proxy: nothing is told to the machines.
    drop((machine, unclaimed, slot));
    rig.engine = start(config(rig.state.path())).await;

    let mut adopted = rig.engine.adopt_all().await.unwrap();
    assert_eq!(adopted.len(), 1, "a machine that is nobody's is removed");
    let machine = adopted.remove(0);
    assert_eq!(machine.owner(), Some((&id, 42)));
    say(&machine, "kill -0 $(cat /tmp/pid)").await;
    assert_eq!(say(&machine, "hostname").await, "alpha\n");
    let slot = machine.network().unwrap();
    for guest in ["100.64.0.2", "fd54:6f6d:626f::2"] {
        assert_eq!(greet(&machine, &slot, guest).await, guest);
    }
    machine.destroy().await.unwrap();
    assert_eq!(rig.leftovers(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_vm_that_dies_is_noticed_and_says_why() {
    let mut rig = Rig::new().await;
    let id = SandboxId::random(Region::DEFAULT).unwrap();
    // Switched off; then crashed, under an engine that did not start it.
    for (key, is_adopted, exit, expected) in [
        ("o", false, Some(Exit::Code(0)), "Power down"),
        ("c", true, None, "Kernel panic"),
    ] {
        let mut machine = rig.launch("alpha").await;
        if is_adopted {
            machine.set_owner(&id, 42).unwrap();
            drop(machine);
            rig.engine = start(config(rig.state.path())).await;
            machine = rig.engine.adopt_all().await.unwrap().remove(0);
        }
        let mut agent = AgentClient::new(machine.agent());
        let script = format!("echo 1 > /proc/sys/kernel/sysrq; echo {key} > /proc/sysrq-trigger");
        let dying = agent.spawn(SpawnRequest {
            command: "sudo".to_owned(),
            args: ["sh", "-c", &script].map(str::to_owned).to_vec(),
            ..SpawnRequest::default()
        });
        // It may die before it answers.
        dying.await.ok();
        timeout(PATIENCE, machine.ended()).await.unwrap();
        let last = machine.last_words();
        // Whether the adopted one is still this process's child is its own affair.
        if !is_adopted {
            assert_eq!(last.exit, exit, "{last}");
        }
        assert!(last.console.contains(expected), "{last}");
        machine.destroy().await.unwrap();
        assert_eq!(rig.leftovers(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn the_isolation_is_what_was_asked_for() {
    let rig = Rig::new().await;
    let expected = match choice() {
        IsolationChoice::Kvm => Isolation::Kvm,
        IsolationChoice::Auto | IsolationChoice::Emulated => Isolation::Emulated,
    };
    assert_eq!(rig.engine.isolation().0, expected);
    let cold = rig.engine.time_cold_boot().await.unwrap();
    assert!(cold > Duration::from_millis(100), "{cold:?} is no boot");
}
