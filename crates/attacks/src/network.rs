//! A network that exists for one test: a namespace that the server runs in, and
//! one for each host, joined by veth pairs.
//!
//! ```text
//!              ┌── origin   20.0.1.2   what the secret is for
//!    server ───┼── cdn      20.0.2.2   one address for good.test and bad.test
//!  (+ trap)    ├── names    20.0.3.2   the name server of the server's host
//!              └── evil     20.0.4.2   the way to everywhere else; counts packets
//! ```
//!
//! The addresses are public ones, so that nothing here is closed by its kind; no
//! packet leaves the namespaces. Everything ends with the process that made it:
//! each namespace is held by a program that waits for the end of its input.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, timeout};
use tombolo_proc::Command;

use crate::certificates;

/// Whatever is waited for here takes no longer, or hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Certificates that hosts have.
const NAMES: [&str; 6] = [
    "origin.test",
    "good.test",
    "bad.test",
    "named.test",
    "rebind.test",
    "mixed.test",
];
const EVIL_ADDRESS: Ipv4Addr = Ipv4Addr::new(20, 0, 4, 2);
/// Where datagrams go that only show that all before them were seen.
const FENCE_PORT: u16 = 9;
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hosts/outside.py");

/// Joins a namespace to the one this runs in: its name, its process, its number.
const JOIN: &str = "set -e
    ip link add \"to-$1\" type veth peer name eth0 address 02:00:00:00:00:0$3 netns \"$2\"
    ip addr add 20.0.$3.1/24 dev \"to-$1\"
    ip -6 addr add 2a0e:$3::1/64 dev \"to-$1\" nodad
    ip link set \"to-$1\" up
    exec nsenter --net=/proc/$2/ns/net sh -ec '
        ip link set lo up
        ip addr add 20.0.$1.2/24 dev eth0
        ip -6 addr add 2a0e:$1::2/64 dev eth0 nodad
        ip link set eth0 up
        ip route add default via 20.0.$1.1' sh \"$3\"";

/// What the server's own namespace has besides: a LAN, and the way out.
const HUB: &str = "set -e
    ip link set lo up
    ip addr add 10.77.0.1/24 dev lo
    ip route add default via 20.0.4.2
    ip neigh replace 20.0.4.2 lladdr 02:00:00:00:00:04 dev to-evil
    ip -6 route add default via 2a0e:4::2
    ip -6 neigh replace 2a0e:4::2 lladdr 02:00:00:00:00:04 dev to-evil";

/// A network and its hosts.
#[derive(Debug)]
pub struct Network {
    /// Holds the namespace of the server.
    hub: Child,
    /// What may be reached, and where the secret belongs.
    pub origin: Host,
    /// One address with two names, of which one may be reached.
    pub cdn: Host,
    /// Answers names, and tells which were asked for.
    pub names: Host,
    /// Counts what goes anywhere else.
    pub evil: Host,
    /// Listens where the server's own machine does.
    pub trap: Host,
    directory: TempDir,
}

/// A program in a namespace, and everything it said.
#[derive(Debug)]
pub struct Host {
    name: &'static str,
    /// The namespace it is in lives as long as this.
    _holder: Option<Child>,
    _program: Child,
    input: tokio::sync::Mutex<ChildStdin>,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Network {
    /// Makes all of it and waits until every host listens.
    pub async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        certificates::write(directory.path(), &NAMES)?;
        let resolver = directory.path().join("resolv.conf");
        fs_err::write(
            &resolver,
            "nameserver 20.0.3.2\noptions timeout:1 attempts:1\n",
        )?;
        let mount = "mount --bind \"$1\" /etc/resolv.conf; echo ready; exec cat";
        let mut hub = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .args(["sh", "-ec", mount, "sh"])
            .arg(&resolver)
            .kill_on_drop(true)
            .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        first_line(&mut hub).await?;
        let server = pid(&hub)?;
        let host =
            async |name, number: u8| Host::start(name, server, number, directory.path()).await;
        let (origin, cdn) = (host("origin", 1).await?, host("cdn", 2).await?);
        let (names, evil) = (host("names", 3).await?, host("evil", 4).await?);
        inside_of(server).args(["sh", "-c", HUB]).run().await?;
        let trap = Host::launch("trap", server, None, directory.path()).await?;
        let network = Self {
            hub,
            origin,
            cdn,
            names,
            evil,
            trap,
            directory,
        };
        network.check().await?;
        Ok(network)
    }

    /// What must not be seen would be: a packet to anywhere, by either protocol, and
    /// a connection to the server's own machine.
    async fn check(&self) -> anyhow::Result<()> {
        self.inside(|| {
            for (from, to) in [
                ("0.0.0.0:0", "9.9.9.9:99"),
                ("[::]:0", "[2606:4700::1111]:99"),
            ] {
                UdpSocket::bind(from)?.send_to(b"seen", to)?;
            }
            TcpStream::connect("10.77.0.1:2375")?;
            Ok(())
        })
        .await?;
        for kind in ["0x800", "0x86dd"] {
            self.evil.says(|line| line["kind"] == kind).await?;
        }
        self.trap.says(|line| line["connected"] == 2375).await?;
        self.settle().await
    }

    /// A process with the network and the mounts that the server is to have.
    pub fn server_pid(&self) -> anyhow::Result<u32> {
        pid(&self.hub)
    }

    /// The authority that the server is to trust.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// Where the server logs to.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Does something that blocks in the server's network.
    pub async fn inside<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let namespace = fs_err::File::open(format!("/proc/{}/ns/net", self.server_pid()?))?;
        let (send, receive) = tokio::sync::oneshot::channel();
        // A thread of its own, since it never comes back from there.
        std::thread::spawn(move || {
            let entered = setns(namespace, CloneFlags::CLONE_NEWNET);
            let done = entered.map_err(Into::into).and_then(|()| act());
            // Whoever waited may have been ended.
            drop(send.send(done));
        });
        receive.await.context("what was done inside ended early")?
    }

    /// Returns when everything that was sent to `evil` before has been counted.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let mut token = [0; 8];
        getrandom::fill(&mut token).ok().context("no entropy")?;
        let token = token.map(|byte| format!("{byte:02x}")).concat();
        let datagram = token.clone();
        self.inside(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.send_to(datagram.as_bytes(), (EVIL_ADDRESS, FENCE_PORT))?;
            Ok(())
        })
        .await?;
        self.evil.says(|line| line["fence"] == *token).await?;
        Ok(())
    }
}

impl Host {
    async fn start(
        name: &'static str,
        server: u32,
        number: u8,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; exec cat"])
            .kill_on_drop(true)
            .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        first_line(&mut holder).await?;
        let (own, number) = (pid(&holder)?, number.to_string());
        inside_of(server)
            .args(["sh", "-c", JOIN, "sh", name, &own.to_string(), &number])
            .run()
            .await?;
        Self::launch(name, own, Some(holder), directory).await
    }

    async fn launch(
        name: &'static str,
        namespace: u32,
        holder: Option<Child>,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let mut program = inside_of(namespace)
            .inherit_env()
            .args(["python3", PROGRAM, name])
            .arg(directory)
            .kill_on_drop(true)
            .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        let output = program.stdout.take().context("its output is piped")?;
        let input = program.stdin.take().context("its input is piped")?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "text": line }));
                hears.lock().push(line);
            }
        });
        let host = Self {
            name,
            _holder: holder,
            _program: program,
            input: tokio::sync::Mutex::new(input),
            said,
        };
        host.says(|line| line["ready"] == true).await?;
        Ok(host)
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tells it something, as one line of JSON, and waits until it has heard.
    pub async fn tell(&self, line: &Value) -> anyhow::Result<()> {
        let seen = self.count();
        let mut input = self.input.lock().await;
        input.write_all(format!("{line}\n").as_bytes()).await?;
        drop(input);
        self.says_after(seen, |line| line["heard"] == true).await?;
        Ok(())
    }

    /// How many lines it has said.
    pub fn count(&self) -> usize {
        self.said.lock().len()
    }

    /// What it has said since it had said so much.
    pub fn since(&self, count: usize) -> Vec<Value> {
        let said = self.said.lock();
        said.get(count..).unwrap_or_default().to_vec()
    }

    /// Waits for something that it says, now or earlier.
    pub async fn says(&self, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.says_after(0, is_it).await
    }

    async fn says_after(
        &self,
        count: usize,
        is_it: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.since(count).into_iter().find(&is_it) {
                return Ok(found);
            }
            ensure!(
                Instant::now() < give_up,
                "{} did not say what was waited for: {:?}",
                self.name,
                self.since(count)
            );
            sleep(LOOK_AGAIN).await;
        }
    }
}

fn inside_of(pid: u32) -> Command {
    Command::new("nsenter")
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg("--")
        .deadline(PATIENCE)
}

fn pid(child: &Child) -> anyhow::Result<u32> {
    child.id().context("the holder of a namespace ended")
}

async fn first_line(child: &mut Child) -> anyhow::Result<()> {
    let output = child.stdout.as_mut().context("its output is piped")?;
    let mut line = String::new();
    let mut reader = BufReader::new(output);
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    ensure!(line == "ready\n", "no namespace: {line}");
    Ok(())
}
