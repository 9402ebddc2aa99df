//! The egress proxy's process as the supervisor starts it: who it is, what it
//! may, who may talk to it and who may look into it. Needs root, as the
//! supervisor does.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this file is a test"
)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;
use tombolo_proc::Command;

/// Nothing here takes long; what does, hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const EGRESS: u32 = 60_793;
const SERVER: u32 = 60_794;
const OTHER: u32 = 60_795;

/// The directories as the supervisor makes them.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let place = Self { directory };
        let mode = std::fs::Permissions::from_mode;
        fs_err::set_permissions(place.directory.path(), mode(0o755)).unwrap();
        fs_err::create_dir(place.state()).unwrap();
        fs_err::set_permissions(place.state(), mode(0o700)).unwrap();
        let uid = Some(EGRESS);
        fs_err::os::unix::fs::chown(place.state(), uid, uid)
            .expect("this test needs root, as the supervisor does");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn launch(&self) -> Value {
        json!({
            "state_dir": self.state(),
            "control": self.path("control.sock"),
            "control_uid": SERVER,
            "descriptors": self.path("slots.sock"),
            "settings": {
                "run_as": { "uid": EGRESS, "gid": EGRESS },
                "hosts": {},
                "private_networks": [],
                "root_files": [],
                "client_certificates": {},
                "audit_file_bytes_max": 1 << 20,
                "audit_files_kept": 1,
            },
        })
    }

    /// Starts it and waits until it is ready.
    async fn start(&self) -> Proxy {
        let mut process = spawn();
        let stdin = tell(&mut process, &self.launch()).await;
        let mut said = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let read = output.read_line(&mut said);
        timeout(PATIENCE, read).await.unwrap().unwrap();
        assert_eq!(said, "egress\n");
        Proxy { process, stdin }
    }
}

fn spawn() -> Child {
    Command::new(env!("CARGO_BIN_EXE_tombolo"))
        .arg("egress-proxy")
        .spawn(Stdio::piped(), Stdio::piped(), Stdio::piped())
        .unwrap()
}

async fn tell(process: &mut Child, launch: &Value) -> ChildStdin {
    let mut stdin = process.stdin.take().unwrap();
    let line = format!("{launch}\n");
    stdin.write_all(line.as_bytes()).await.unwrap();
    stdin
}

struct Proxy {
    process: Child,
    stdin: ChildStdin,
}

impl Proxy {
    fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    async fn ended(mut self) -> std::process::ExitStatus {
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended.expect("it does not end").unwrap()
    }
}

/// The words after a key of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> Vec<String> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let words = line.unwrap().split_whitespace();
    words.map(str::to_owned).collect()
}

/// Whether this root has `CAP_SYS_RESOURCE`, number 24 in capabilities(7).
fn may_raise_limits() -> bool {
    let effective = status(std::process::id(), "CapEff").concat();
    u64::from_str_radix(&effective, 16).unwrap() & (1 << 24) != 0
}

/// Whether a user can read the memory map and the environment of a process,
/// which takes the same right as tracing it.
async fn can_look_into(uid: u32, pid: u32) -> bool {
    let files = ["environ", "maps"].map(|name| format!("/proc/{pid}/{name}"));
    let cat = Command::new("cat").args(files).run_as(uid, uid);
    cat.output().await.unwrap().status.success()
}

/// Whether a user can connect to a socket, which takes the right to write.
async fn can_connect(uid: u32, socket: &Path) -> bool {
    let test = Command::new("test").arg("-w").arg(socket);
    let test = test.run_as(uid, uid);
    test.output().await.unwrap().status.success()
}

#[tokio::test]
async fn it_is_a_user_without_rights_whom_nobody_reads() {
    let place = Place::new();
    let proxy = place.start().await;
    let pid = proxy.pid();
    let own = EGRESS.to_string();
    for key in ["Uid", "Gid"] {
        assert_eq!(status(pid, key), [&*own; 4], "{key}");
    }
    assert!(status(pid, "Groups").is_empty());
    assert_eq!(status(pid, "NoNewPrivs"), ["1"]);
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, key), ["0000000000000000"], "{key}");
    }
    let limits = fs_err::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    // Root raised the limit before it became another user. Some roots may not; a
    // process that may lock little locks nothing, and says so.
    let locked = limits.lines().find(|line| line.starts_with("Max locked"));
    let is_unlimited = locked.unwrap().contains("unlimited");
    assert_eq!(is_unlimited, may_raise_limits());
    assert_eq!(status(pid, "VmLck") != ["0", "kB"], is_unlimited);
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let core: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"]);

    // Another process of the same user shows that it is not the user that
    // makes the difference.
    let mut open = Command::new("sleep")
        .arg("60")
        .run_as(EGRESS, EGRESS)
        .spawn(Stdio::null(), Stdio::null(), Stdio::null())
        .unwrap();
    assert!(can_look_into(EGRESS, open.id().unwrap()).await);
    open.kill().await.unwrap();
    for uid in [EGRESS, SERVER] {
        assert!(!can_look_into(uid, pid).await, "{uid}");
    }
}

#[tokio::test]
async fn each_socket_lets_in_whom_it_is_for() {
    let place = Place::new();
    let proxy = place.start().await;
    for (name, owner, allowed) in [
        ("control.sock", SERVER, &[0, SERVER][..]),
        ("slots.sock", 0, &[0]),
    ] {
        let path = place.path(name);
        let metadata = fs_err::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600, "{name}");
        assert_eq!(metadata.uid(), owner, "{name}");
        for uid in [0, SERVER, EGRESS, OTHER] {
            let expected = allowed.contains(&uid);
            assert_eq!(can_connect(uid, &path).await, expected, "{name} {uid}");
        }
    }
    for name in ["opening.key", "storage.key", "audit.jsonl"] {
        let metadata = fs_err::metadata(place.state().join(name)).unwrap();
        assert_eq!(metadata.uid(), EGRESS, "{name}");
    }
    drop(proxy);
}

#[tokio::test]
async fn it_ends_with_its_parent_and_comes_back_after_any_end() {
    let place = Place::new();
    let key = || fs_err::read(place.state().join("opening.key")).unwrap();
    let mut proxy = place.start().await;
    let first = key();
    proxy.process.start_kill().unwrap();
    assert!(!proxy.ended().await.success());
    let proxy = place.start().await;
    let Proxy { process, stdin } = proxy;
    drop(stdin);
    let mut process = process;
    let ended = timeout(PATIENCE, process.wait()).await;
    assert!(ended.expect("it outlives its parent").unwrap().success());
    drop(place.start().await);
    assert_eq!(key(), first);
}

#[tokio::test]
async fn authorities_that_are_not_there_are_named() {
    let place = Place::new();
    let mut launch = place.launch();
    launch["settings"]["root_files"] = json!(["/nonexistent/roots.pem"]);
    let mut process = spawn();
    let _stdin = tell(&mut process, &launch).await;
    let mut words = String::new();
    let mut stderr = process.stderr.take().unwrap();
    let read = stderr.read_to_string(&mut words);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(process.wait().await.unwrap().code(), Some(78), "{words}");
    assert!(words.contains("/nonexistent/roots.pem"), "{words}");
    assert!(words.contains("hint: egress.root_files"), "{words}");
}
