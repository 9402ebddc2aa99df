//! Networks of sandboxes without sandboxes: slots as a node makes them, handed to
//! the real proxy as a node does it, and a guest of frames that is early. Needs
//! root, and the program under test.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tombolo_ids::SandboxId;
use tombolo_net::address::{GATEWAY_IPV4, GATEWAY_MAC, GUEST_IPV4, GUEST_MAC};
use tombolo_net::{Slot, SlotPool};
use tombolo_node_proto::egress::egress_client::EgressClient;
use tombolo_node_proto::egress::{AttachRequest, SandboxRef};
use tombolo_node_proto::handover::{self, SlotSockets};
use tombolo_proc::Command;
use tonic::transport::{Channel, Endpoint};

/// Slots that are made, used and thrown away.
const SLOT_COUNT: usize = 3000;
/// Sandboxes at the same time.
const LANE_COUNT: usize = 8;
const POOL_SIZE: usize = 16;
/// The users of the proxy and of the server; neither needs a name.
const EGRESS: u32 = 60_793;
const SERVER: u32 = 60_794;
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Where nobody may go.
const ELSEWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(9, 9, 9, 9), 443);
const NAME_SERVER: SocketAddrV4 = SocketAddrV4::new(GATEWAY_IPV4, 53);
/// `struct virtio_net_hdr`, which a tap of ours has before each frame.
const OFFLOAD_HEADER: [u8; 10] = [0; 10];
const SEQUENCE: u32 = 1000;
const WINDOW: u16 = 64_000;
/// The ports of the guest, one for each moment at which it tries.
const MOMENTS: [u16; 3] = [40_001, 40_002, 40_003];

/// NET-14: packets before anybody listens, before the policy is known, and after it
/// is, in one slot after the other: each is judged by the policy, and none goes out.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_a_slot_that_is_new_or_was_another_guests() {
    let proxy = Proxy::start().await.unwrap();
    let pool = Arc::new(SlotPool::start(POOL_SIZE).unwrap());
    let link = proxy.link().unwrap();
    // What the first one makes is made once.
    cycle(&pool, &link).await.unwrap();
    let open = proxy.descriptors().unwrap();
    let left = Arc::new(AtomicUsize::new(SLOT_COUNT));
    let mut lanes = JoinSet::new();
    for _ in 0..LANE_COUNT {
        let (pool, left, link) = (Arc::clone(&pool), Arc::clone(&left), link.clone());
        lanes.spawn(async move {
            let is_one_less = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_one_less)
                .is_ok()
            {
                cycle(&pool, &link).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = lanes.join_next().await {
        done.unwrap().unwrap();
    }
    drop(lanes);
    let attempts = (SLOT_COUNT + 1) * MOMENTS.len();
    let kinds = ["deny dns", "deny tcp"].map(str::to_owned);
    let expected = BTreeMap::from(kinds.map(|kind| (kind, attempts)));
    let give_up = Instant::now() + PATIENCE;
    // They are written after the fact.
    while proxy.recorded().unwrap().values().sum::<usize>() < 2 * attempts {
        assert!(Instant::now() < give_up, "{:?}", proxy.recorded());
        sleep(LOOK_AGAIN).await;
    }
    assert_eq!(proxy.recorded().unwrap(), expected);
    // It is in a namespace without a way out, in which not even a try was made.
    assert_eq!(proxy.sent().unwrap(), 0);
    while proxy.descriptors().unwrap() > open {
        assert!(
            Instant::now() < give_up,
            "descriptors of the proxy are left"
        );
        sleep(LOOK_AGAIN).await;
    }
}

/// One sandbox that may reach nothing, from its slot to its end.
async fn cycle(pool: &SlotPool, link: &Link) -> anyhow::Result<()> {
    let slot = timeout(PATIENCE, pool.take()).await??;
    let id = SandboxId::random("loc".parse()?)?;
    let [early, unknown, known] = MOMENTS;
    attempt(&slot, early)?;
    let sockets = SlotSockets {
        tcp4: slot.sockets.tcp4.as_fd(),
        tcp6: slot.sockets.tcp6.as_fd(),
        udp4: slot.sockets.udp4.as_fd(),
        udp6: slot.sockets.udp6.as_fd(),
    };
    handover::send(&*link.descriptors, &id, &sockets)?;
    attempt(&slot, unknown)?;
    let policy = json!({ "version": 1, "generation": 1, "allow_net": [] });
    let request = AttachRequest {
        sandbox_id: id.to_string(),
        organisation: "o".to_owned(),
        policy_json: policy.to_string(),
        ..AttachRequest::default()
    };
    let mut control = link.control.clone();
    control.attach(request).await?;
    attempt(&slot, known)?;
    let slot = tokio::task::spawn_blocking(move || hear_refusals(slot)).await??;
    let sandbox_id = id.to_string();
    control.detach(SandboxRef { sandbox_id }).await?;
    slot.discard();
    Ok(())
}

/// A connection that says something, and a question for a name.
fn attempt(slot: &Slot, port: u16) -> anyhow::Result<()> {
    let question =
        b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04evil\x04test\x00\x00\x01\x00\x01";
    let mut frame = Vec::new();
    let packet = to(NAME_SERVER).udp(port, NAME_SERVER.port());
    packet.write(&mut frame, question)?;
    send(&slot.tap, &frame)?;
    frame.clear();
    let packet = to(ELSEWHERE).tcp(port, ELSEWHERE.port(), SEQUENCE, WINDOW);
    packet.syn().write(&mut frame, &[])?;
    send(&slot.tap, &frame)
}

fn to(address: SocketAddrV4) -> PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC);
    link.ipv4(GUEST_IPV4.octets(), address.ip().octets(), 64)
}

fn send(tap: &OwnedFd, frame: &[u8]) -> anyhow::Result<()> {
    let parts = [IoSlice::new(&OFFLOAD_HEADER), IoSlice::new(frame)];
    let length = rustix::io::writev(tap, &parts)?;
    ensure!(length == OFFLOAD_HEADER.len() + frame.len());
    Ok(())
}

/// Goes on with every connection that was begun, until all of them were reset and
/// all questions answered.
fn hear_refusals(slot: Slot) -> anyhow::Result<Slot> {
    let (mut reset, mut answered) = (Vec::new(), Vec::new());
    while reset.len() < MOMENTS.len() || answered.len() < MOMENTS.len() {
        let frame = hear(&slot.tap)
            .with_context(|| format!("{reset:?} are reset, {answered:?} answered"))?;
        let Ok(sliced) = SlicedPacket::from_ethernet(&frame) else {
            continue;
        };
        match sliced.transport {
            Some(TransportSlice::Udp(udp)) if !answered.contains(&udp.destination_port()) => {
                answered.push(udp.destination_port());
            }
            Some(TransportSlice::Tcp(tcp)) if tcp.rst() => reset.push(tcp.destination_port()),
            Some(TransportSlice::Tcp(tcp)) if tcp.syn() => {
                let theirs = tcp.sequence_number().wrapping_add(1);
                let port = tcp.destination_port();
                let mut frame = Vec::new();
                let packet = to(ELSEWHERE).tcp(port, ELSEWHERE.port(), SEQUENCE + 1, WINDOW);
                // Neither TLS nor HTTP, so that nobody explains anything.
                packet.ack(theirs).psh().write(&mut frame, b"\0out")?;
                send(&slot.tap, &frame)?;
            }
            Some(TransportSlice::Tcp(tcp)) => {
                ensure!(tcp.payload().is_empty(), "something came back");
            }
            _ => {}
        }
    }
    Ok(slot)
}

/// The next frame for the guest.
fn hear(tap: &OwnedFd) -> anyhow::Result<Vec<u8>> {
    let patience = Timespec::try_from(PATIENCE)?;
    loop {
        let ready = poll(&mut [PollFd::new(tap, PollFlags::IN)], Some(&patience))?;
        ensure!(ready > 0, "the guest hears nothing");
        let mut buffer = vec![0; 1 << 16];
        match rustix::io::read(tap, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer.split_off(OFFLOAD_HEADER.len()));
            }
            Err(errno) if errno.kind() == ErrorKind::WouldBlock => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The real program, in a network of its own that leads nowhere.
struct Proxy {
    process: Child,
    place: TempDir,
    /// It ends with it.
    _stdin: ChildStdin,
}

/// What a node has of it; there is one.
#[derive(Clone)]
struct Link {
    control: EgressClient<Channel>,
    descriptors: Arc<OwnedFd>,
}

impl Proxy {
    async fn start() -> anyhow::Result<Self> {
        let program = std::env::var_os("TOMBOLO_TEST_BINARY");
        let program = PathBuf::from(program.context("`cargo xtask test` names the program")?);
        let place = TempDir::new()?;
        let mode = std::fs::Permissions::from_mode;
        fs_err::set_permissions(place.path(), mode(0o755))?;
        let state = place.path().join("state");
        fs_err::create_dir(&state)?;
        fs_err::set_permissions(&state, mode(0o700))?;
        fs_err::os::unix::fs::chown(&state, Some(EGRESS), Some(EGRESS))?;
        let launch = json!({
            "state_dir": state,
            "control": place.path().join("control.sock"),
            "control_uid": SERVER,
            "descriptors": place.path().join("slots.sock"),
            "settings": {
                "run_as": { "uid": EGRESS, "gid": EGRESS },
                "hosts": {},
                "private_networks": [],
                "root_files": [],
                "client_certificates": {},
                "audit_file_bytes_max": 1 << 30,
                "audit_files_kept": 1,
            },
        });
        let mut process = Command::new("unshare")
            .args(["--net", "--"])
            .arg(program)
            .arg("egress-proxy")
            .kill_on_drop(true)
            .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        let mut stdin = process.stdin.take().context("its input is piped")?;
        stdin.write_all(format!("{launch}\n").as_bytes()).await?;
        let output = process.stdout.take().context("its output is piped")?;
        let mut said = String::new();
        timeout(PATIENCE, BufReader::new(output).read_line(&mut said)).await??;
        ensure!(said == "egress\n", "it did not start: {said:?}");
        Ok(Self {
            process,
            place,
            _stdin: stdin,
        })
    }

    fn link(&self) -> anyhow::Result<Link> {
        let at = |name: &str| self.place.path().join(name);
        let endpoint = Endpoint::from_shared(format!("unix:{}", at("control.sock").display()))?;
        let flags = SocketFlags::CLOEXEC;
        let descriptors = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&descriptors, &SocketAddrUnix::new(at("slots.sock"))?)?;
        Ok(Link {
            control: EgressClient::new(endpoint.connect_lazy()),
            descriptors: Arc::new(descriptors),
        })
    }

    fn of_process(&self, name: &str) -> anyhow::Result<PathBuf> {
        let pid = self.process.id().context("the proxy died")?;
        Ok(Path::new("/proc").join(pid.to_string()).join(name))
    }

    fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs_err::read_dir(self.of_process("fd")?)?.count())
    }

    /// How many records there are of each decision about each protocol.
    fn recorded(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let text = fs_err::read_to_string(self.place.path().join("state/audit.jsonl"))?;
        let mut counts = BTreeMap::new();
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        for line in complete.lines() {
            let record: Value = serde_json::from_str(line)?;
            let [decision, kind] = ["decision", "proto"].map(|key| record[key].as_str());
            let word = format!("{} {}", decision.unwrap_or("no"), kind.unwrap_or("none"));
            *counts.entry(word).or_default() += 1;
        }
        Ok(counts)
    }

    /// Connections that it tried to make and packets that it sent, by the counters of
    /// its own namespace (proc(5), `net/snmp`).
    fn sent(&self) -> anyhow::Result<u64> {
        let text = fs_err::read_to_string(self.of_process("net/snmp")?)?;
        let mut lines = text.lines();
        let mut sum = 0;
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let pairs = names.split_whitespace().zip(values.split_whitespace());
            for (name, value) in pairs.filter(|(name, _)| SENDING.contains(name)) {
                sum += value.parse::<u64>().with_context(|| name.to_owned())?;
            }
        }
        Ok(sum)
    }
}

/// What counts attempts to send, whether or not there is a way.
const SENDING: [&str; 4] = ["OutRequests", "OutNoRoutes", "ActiveOpens", "OutDatagrams"];
