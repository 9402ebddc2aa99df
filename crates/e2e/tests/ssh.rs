//! SSH as a person uses it: stock OpenSSH clients, and real sandboxes.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tombolo_e2e::{World, with_world};
use tombolo_proc::{Command, Output};

#[path = "ssh/editor.rs"]
mod editor;

/// Everything here takes seconds.
const LIMIT: Duration = Duration::from_mins(5);
/// One client's run.
const PATIENCE: Duration = Duration::from_mins(1);
/// The file that tells clients of the sandbox, and what they call it.
const CONFIG: &str = "config";
const SANDBOX: &str = "sandbox";
/// What OpenSSH's client answers when it has no connection, or loses it.
const LOST: i32 = 255;

/// One way into a sandbox, and a directory for the client's files.
struct Door {
    home: TempDir,
}

impl Door {
    async fn open(world: &World, id: &str) -> anyhow::Result<Self> {
        Self::open_as(world, id, None).await
    }

    /// One whose user name is another than the sandbox's.
    async fn open_as(world: &World, id: &str, user: Option<&str>) -> anyhow::Result<Self> {
        let args = ["sandbox", "ssh", id, "--json"];
        let shown = world.tombolo(args).run().await?.stdout_text();
        let shown: Value = serde_json::from_str(&shown)?;
        let text = |field: &str| {
            let found = shown.get(field).and_then(Value::as_str);
            found.with_context(|| format!("no {field}"))
        };
        let port = shown.get("port").and_then(Value::as_u64);
        let home = TempDir::new()?;
        let known = home.path().join("known_hosts");
        fs_err::write(&known, format!("tombolo {}\n", text("host_key")?))?;
        let config = format!(
            "Host sandbox\n  HostName localhost\n  Port {}\n  User {}\n  BatchMode yes\n  \
             HostKeyAlias tombolo\n  UserKnownHostsFile {}\n  LogLevel ERROR\n",
            port.context("no port")?,
            user.unwrap_or(text("username")?),
            known.display(),
        );
        fs_err::write(home.path().join(CONFIG), config)?;
        Ok(Self { home })
    }

    /// One by the sandbox's id and a key that is registered, as people write it into
    /// their own configuration.
    async fn open_by_key(world: &World, id: &str) -> anyhow::Result<Self> {
        let door = Self::open_as(world, id, Some(id)).await?;
        let make = ["-q", "-t", "ed25519", "-N", "", "-f", "key"];
        door.program("ssh-keygen").args(make).run().await?;
        let public = door.home.path().join("key.pub");
        let add = ["ssh-key", "add", public.to_str().context("it is text")?];
        world.tombolo(add).run().await?;
        let path = door.home.path().join(CONFIG);
        let config = fs_err::read_to_string(&path)? + "  IdentityFile key\n";
        fs_err::write(path, config)?;
        Ok(door)
    }

    /// A client of OpenSSH, with nobody else's configuration.
    fn client(&self, program: &str) -> Command {
        self.program(program).args(["-F", CONFIG])
    }

    /// A program in the directory with the client's files.
    fn program(&self, program: &str) -> Command {
        Command::new(program)
            .cwd(self.home.path())
            .deadline(PATIENCE)
    }

    async fn ssh(&self, options: &[&str], line: &str) -> anyhow::Result<Output> {
        let command = self.client("ssh").args(options).arg(SANDBOX).arg(line);
        Ok(command.output().await?)
    }
}

fn check(output: &Output, code: i32, stdout: &str) -> anyhow::Result<()> {
    ensure!(
        output.status.code() == Some(code) && output.stdout_text() == stdout,
        "{output:?} is not {code} with {stdout:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_work_in_a_sandbox() {
    with_world(LIMIT, clients).await;
}

async fn clients(world: Arc<World>) -> anyhow::Result<()> {
    let id = world.create().await?;
    let door = Door::open(&world, &id).await?;
    let commands = [
        ("echo $USER $HOME; id -un", 0, "app /home/app\napp"),
        ("exit 7", 7, ""),
        // OpenSSH's client answers so when a signal ended the program.
        ("kill -9 $$", LOST, ""),
        ("tty", 1, "not a tty"),
    ];
    for (line, code, stdout) in commands {
        let output = door.ssh(&["-T"], line).await?;
        check(&output, code, stdout).with_context(|| line.to_owned())?;
    }
    let output = door
        .ssh(&["-tt"], "test -t 0 && stty size >/dev/null && echo yes")
        .await?;
    check(&output, 0, "yes")?;
    let output = door
        .ssh(&["-o", "SetEnv=GREETING=hello"], "echo $GREETING")
        .await?;
    check(&output, 0, "hello")?;
    let args = ["sandbox", "ssh", id.as_str(), "--", "uname", "-s"];
    check(&world.tombolo(args).output().await?, 0, "Linux")?;
    files(&door).await?;
    let serve = "cd /tmp; setsid python3 -m http.server 8000 > /dev/null 2>&1 & \
                 until curl -s localhost:8000 > /dev/null; do sleep 0.1; done; echo up";
    check(&door.ssh(&["-T"], serve).await?, 0, "up")?;
    let forward = door.client("ssh").args(["-W", "localhost:8000", SANDBOX]);
    let answer = forward.input("GET / HTTP/1.0\r\n\r\n").run().await?;
    ensure!(
        answer.stdout_text().starts_with("HTTP/1.0 200"),
        "{answer:?}"
    );
    forwarded(&door).await?;
    sockets(&door).await?;
    mounted(&door).await?;
    let stranger = Door::open_as(&world, &id, Some(&"f".repeat(32))).await?;
    let refused = stranger.ssh(&["-T"], "exit 0").await?;
    check(&refused, LOST, "")?;
    let words = String::from_utf8_lossy(&refused.stderr);
    ensure!(words.contains("(publickey)"), "{words}");
    world.kill(&id).await?;
    check(&door.ssh(&["-T"], "exit 0").await?, LOST, "")
}

/// Directories there and back by both protocols of `scp` and by `rsync`, and a batch of
/// `sftp`.
async fn files(door: &Door) -> anyhow::Result<()> {
    let home = door.home.path();
    fs_err::create_dir_all(home.join("sent/below"))?;
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    fs_err::write(home.join("sent/below/file"), &content)?;
    for (mode, protocol) in [("sftp", "-s"), ("scp", "-O")] {
        let there = format!("{SANDBOX}:{mode}");
        let scp = || door.client("scp").args([protocol, "-q", "-r"]);
        scp().arg("sent").arg(&there).run().await?;
        scp().arg(&there).arg(mode).run().await?;
        let back = fs_err::read(home.join(mode).join("below/file"))?;
        ensure!(back == content, "{mode} changed a file");
    }
    let rsync = || {
        let shell = format!("ssh -F {CONFIG}");
        door.program("rsync").args(["-a", "-e"]).arg(shell)
    };
    rsync().args(["sent", "sandbox:rsync"]).run().await?;
    rsync().args(["sandbox:rsync/", "rsync"]).run().await?;
    let back = fs_err::read(home.join("rsync/sent/below/file"))?;
    ensure!(back == content, "rsync changed a file");
    let batch = door.client("sftp").args(["-q", "-b", "-", SANDBOX]);
    let listed = batch.input("mkdir made\nput sent/below/file made/file\nls made\n");
    let listed = listed.run().await?.stdout_text();
    ensure!(listed.contains("made/file"), "{listed}");
    Ok(())
}

/// A port of the sandbox as a socket here, through a client in the background.
async fn forwarded(door: &Door) -> anyhow::Result<()> {
    let forward = door
        .client("ssh")
        .args(["-o", "ExitOnForwardFailure=yes", "-o", "ControlMaster=yes"])
        .args(["-o", "ControlPath=control", "-f", "-N"])
        .args(["-L", "./here:localhost:8000", SANDBOX]);
    forward.run().await?;
    let curl = door
        .program("curl")
        .args(["--silent", "--unix-socket", "here", "http://sandbox/"])
        .args(["--write-out", "%{http_code}", "--output", "page"]);
    let seen = curl.output().await;
    let leave = door
        .client("ssh")
        .args(["-o", "ControlPath=control", "-O", "exit", SANDBOX]);
    leave.run().await?;
    check(&seen?, 0, "200")
}

/// Unix sockets of the sandbox, one of its user and one that only root may open: each
/// tells who connects.
async fn sockets(door: &Door) -> anyhow::Result<()> {
    let tell = "\
import socket, struct, sys
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    while True:
        with server.accept()[0] as client:
            peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            client.sendall(b'user %d' % struct.unpack('3i', peer)[1])
";
    let start = format!(
        "echo \"{tell}\" > tell.py; setsid python3 tell.py /tmp/open > /dev/null 2>&1 &
        sudo sh -c 'umask 077; exec setsid python3 tell.py /tmp/closed' > /dev/null 2>&1 &
        until test -S /tmp/open -a -S /tmp/closed; do sleep 0.1; done; id --user"
    );
    let user = door.ssh(&["-T"], &start).await?.stdout_text();
    let forward = door
        .client("ssh")
        .args(["-o", "ExitOnForwardFailure=yes", "-o", "ControlMaster=yes"])
        .args(["-o", "ControlPath=control", "-f", "-N"])
        .args(["-L", "./open:/tmp/open", "-L", "./closed:/tmp/closed"]);
    forward.arg(SANDBOX).run().await?;
    let heard = async |name: &str| {
        let mut stream = UnixStream::connect(door.home.path().join(name)).await?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await?;
        Ok::<_, std::io::Error>(heard)
    };
    let seen = (heard("open").await, heard("closed").await);
    let leave = door.client("ssh").args(["-o", "ControlPath=control"]);
    leave.args(["-O", "exit", SANDBOX]).run().await?;
    let seen = (seen.0?, seen.1?);
    ensure!(seen == (format!("user {user}"), String::new()), "{seen:?}");
    Ok(())
}

/// The sandbox's files as a directory here.
async fn mounted(door: &Door) -> anyhow::Result<()> {
    fs_err::create_dir_all(door.home.path().join("mounted"))?;
    let config = door.home.path().join(CONFIG);
    let option = format!("ssh_command=ssh -F {}", config.display());
    let mount = door
        .program("sshfs")
        .args(["-o", &option, "sandbox:", "mounted"]);
    mount.run().await?;
    let work = "echo written > mounted/by-sshfs && cat mounted/made/file | wc -c";
    let seen = door.program("sh").args(["-c", work]).output().await;
    let unmount = door.program("fusermount3").args(["-u", "mounted"]);
    unmount.run().await?;
    check(&seen?, 0, "3000000")?;
    let written = door.ssh(&["-T"], "cat by-sshfs").await?;
    check(&written, 0, "written")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_reaches_what_a_client_forwards() {
    with_world(LIMIT, remote_forward).await;
}

/// A service beside the client is `localhost` in the sandbox, for as long as the
/// client is there.
async fn remote_forward(world: Arc<World>) -> anyhow::Result<()> {
    let id = world.create().await?;
    let door = Door::open(&world, &id).await?;
    let served = TcpListener::bind("127.0.0.1:0").await?;
    let forward = format!("8099:{}", served.local_addr()?);
    let content: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 251) as u8).collect();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = served.accept().await {
            stream.write_all(&content).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let visits = "\
import socket
for host in '127.0.0.1', '::1', 'localhost':
    with socket.create_connection((host, 8099)) as stream:
        got = b''.join(iter(lambda: stream.recv(65536), b''))
    print(host, got == bytes(at % 251 for at in range(2_000_000)))
";
    let line = format!("python3 -c \"{visits}\"");
    let options = ["-T", "-o", "ExitOnForwardFailure=yes", "-R", &forward];
    let output = door.ssh(&options, &line).await?;
    check(&output, 0, "127.0.0.1 True\n::1 True\nlocalhost True")?;
    // It ends with the client.
    let output = door.ssh(&["-T"], "exec 3<>/dev/tcp/127.0.0.1/8099").await?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    serving.abort();
    world.kill(&id).await
}
