//! How slots come, are found again, and go.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::time::Instant;
use tombolo_net::address::{GATEWAY_MAC, GUEST_MAC, TAP_NAME};
use tombolo_net::{FindNamespaceError, ListenError, Namespace, Slot, SlotPool};

use crate::guest::{GUEST_PORT, Guest, Heard, frame, syn, udp};
use crate::listener::{accept, assert_nothing_arrived, receive};
use crate::{Rig, address, rig, slot};

const PATIENCE: Duration = Duration::from_secs(5);

fn read_inside(namespace: &Namespace, path: &str) -> String {
    let path = format!("/proc/thread-self/net/{path}");
    namespace
        .enter(|| fs_err::read_to_string(path).unwrap())
        .unwrap()
}

/// NET-01, NET-12: there is no way out that could be opened.
#[test]
fn a_slot_has_two_interfaces_and_no_way_out() {
    let rig = rig();
    let interfaces = read_inside(&rig.namespace, "dev");
    let mut names: Vec<&str> = interfaces
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["lo", TAP_NAME]);
    // Interface, destination, gateway, …: one network, on the link itself.
    let routes = read_inside(&rig.namespace, "route");
    let routes: Vec<Vec<&str>> = routes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(routes, [[TAP_NAME, "00004064", "00000000"]]);
    // A route over the tap is to our own networks, or to groups of hosts on it.
    for line in read_inside(&rig.namespace, "ipv6_route").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = ["fd546f6d626f", "ff00"]
            .iter()
            .any(|p| fields[0].starts_with(p));
        assert!(fields[9] == "lo" || ours, "{line}");
        assert_eq!(fields[4], "0".repeat(32), "a gateway: {line}");
    }
    let forwarding = rig.namespace.enter(|| {
        [
            "ipv4/conf/all",
            "ipv4/conf/tap0",
            "ipv6/conf/all",
            "ipv6/conf/tap0",
        ]
        .map(|place| fs_err::read_to_string(format!("/proc/sys/net/{place}/forwarding")).unwrap())
    });
    assert_eq!(forwarding.unwrap(), ["0\n"; 4]);
}

/// Whoever holds a socket of a slot, or were to make one in it, reaches the
/// guest with answers and nobody with anything else.
#[test]
fn nothing_but_answers_leaves_a_slot() {
    let rig = rig();
    let send = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from)?;
        socket.send_to(b"hello", to).map(drop)
    };
    for (from, to) in [
        ("100.64.0.1:5000", "100.64.0.2:5000"),
        ("100.64.0.1:53", "100.64.0.3:5000"),
        ("100.64.0.1:53", "127.0.0.1:53"),
        ("127.0.0.1:5000", "127.0.0.1:53"),
        ("[fd54:6f6d:626f::1]:5000", "[fd54:6f6d:626f::2]:5000"),
        ("[fd54:6f6d:626f::1]:53", "[fd54:6f6d:626f::3]:5000"),
        ("[::1]:5000", "[::1]:53"),
    ] {
        let sent = rig.namespace.enter(|| send(from, to)).unwrap();
        let refused = sent.map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::PermissionDenied), "{from} to {to}");
    }
    let nowhere = rig
        .namespace
        .enter(|| send("0.0.0.0:0", "93.184.216.34:53"));
    let refused = nowhere.unwrap().map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::NetworkUnreachable));
    rig.guest.assert_silence();
    assert_nothing_arrived(&rig.sockets, "a datagram");
}

/// NET-14: nothing is taken before the rules are there.
#[test]
fn a_tap_takes_nothing_before_it_is_up() {
    let maker = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let tap = tombolo_sys::net::open_tap(TAP_NAME).unwrap();
        rustix::io::write(&tap, &[0; 100])
    });
    assert_eq!(maker.join().unwrap(), Err(rustix::io::Errno::IO));
}

/// A slot is handed out with its rules in place: its very first frame is judged.
/// NET-14: the first frame is judged.
#[test]
fn the_first_frame_of_a_slot_is_judged() {
    let other_mac = [2, 0, 0, 0, 0, 9];
    let question = udp(address("8.8.8.8:53").ip(), GUEST_PORT, 53, b"hello");
    let spoofed = frame(GATEWAY_MAC, other_mac, 0x0800, &question[14..]);
    for _ in 0..10 {
        let rig = rig();
        rig.guest.send(&spoofed);
        rig.guest.assert_unanswered("a spoofed first frame");
        assert_nothing_arrived(&rig.sockets, "a spoofed first frame");
    }
}

/// NET-16: without a proxy there is no network.
#[test]
fn with_nobody_listening_there_is_no_network() {
    let Rig {
        guest,
        namespace,
        sockets,
    } = rig();
    // While somebody keeps the sockets, a connection waits for its holder.
    let to = address("93.184.216.34:443");
    guest.connect(to, GUEST_PORT);
    assert_eq!(accept(&sockets, to).1, to);
    drop(sockets);
    eventually(|| nobody_listens(&namespace).then_some(()));
    for (to, port) in [
        ("93.184.216.34:443", 41_000),
        ("[2606:4700::1]:443", 41_001),
    ] {
        let to = address(to);
        guest.send(&syn(to, port));
        let refused = |heard| matches!(heard, Heard::Tcp { from, rst: true, .. } if from == to);
        // The connection that was open is reset too.
        assert!((0..2).any(|_| refused(guest.hear())), "{to}");
        guest.send(&udp(to.ip(), port, 53, b"question"));
        assert_eq!(guest.hear(), Heard::PortUnreachable { port: 53 });
    }
    guest.assert_silence();
    let sockets = eventually(|| namespace.listen().ok());
    guest.connect(to, 42_000);
    assert_eq!(accept(&sockets, to).1, to);
}

/// As the kernel lists it: `0A` is a TCP socket that listens, and a list of no
/// sockets is a line of titles.
fn nobody_listens(namespace: &Namespace) -> bool {
    let tcp = ["tcp", "tcp6"].map(|name| read_inside(namespace, name));
    let udp = ["udp", "udp6"].map(|name| read_inside(namespace, name));
    tcp.iter().all(|list| !list.contains(" 0A "))
        && udp.iter().all(|list| list.lines().count() == 1)
}

/// NET-10: one slot sees nothing of another.
#[test]
fn slots_do_not_see_each_other() {
    let (one, other) = (rig(), rig());
    assert!(!one.namespace.is_same(&other.namespace).unwrap());
    let broadcast = udp("255.255.255.255".parse().unwrap(), GUEST_PORT, 53, b"hello");
    one.guest
        .send(&frame([0xff; 6], GUEST_MAC, 0x0800, &broadcast[14..]));
    one.guest.connect(address("100.64.0.1:443"), GUEST_PORT);
    other.guest.assert_silence();
    assert_nothing_arrived(&other.sockets, "a neighbour's traffic");
}

/// A process that holds a tap as its standard input, as a VM holds it.
fn holder(tap: OwnedFd) -> (tokio::process::Child, OwnedFd) {
    let child = tombolo_proc::Command::new("sleep")
        .arg("1000")
        .spawn(Stdio::from(tap), Stdio::null(), Stdio::null())
        .unwrap();
    let pid = child.id().unwrap().try_into().unwrap();
    let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    (child, pidfd)
}

#[tokio::test]
async fn a_running_vm_leads_back_to_its_slot() {
    let slot = slot();
    let (mut vm, pidfd) = holder(slot.tap);
    let found = Namespace::of_vm(&pidfd, 0).unwrap();
    assert!(found.is_same(&slot.namespace).unwrap());
    assert!(matches!(found.listen(), Err(ListenError::InUse)));
    // Whoever made the slot is gone, and the proxy too.
    drop((slot.namespace, slot.sockets, found));
    let found = Namespace::of_vm(&pidfd, 0).unwrap();
    let sockets = eventually(|| found.listen().ok());
    let guest = Guest::new(pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).unwrap());
    let to = address("[2606:4700::1]:443");
    guest.connect(to, GUEST_PORT);
    assert_eq!(accept(&sockets, to).1, to);
    let to = address("8.8.8.8:53");
    guest.send(&udp(to.ip(), GUEST_PORT, 53, b"question"));
    assert_eq!(receive(&sockets, to).to, to);
    drop(guest);
    let wrong = Namespace::of_vm(&pidfd, 1);
    assert!(matches!(
        wrong,
        Err(FindNamespaceError::NotItsTap { descriptor: 1 })
    ));
    let missing = Namespace::of_vm(&pidfd, 77);
    assert!(matches!(
        missing,
        Err(FindNamespaceError::Descriptor { descriptor: 77, .. })
    ));
    vm.kill().await.unwrap();
    let ended = Namespace::of_vm(&pidfd, 0);
    assert!(matches!(ended, Err(FindNamespaceError::Descriptor { .. })));
    // The tap goes with its last holder.
    eventually(|| (!read_inside(&found, "dev").contains(TAP_NAME)).then_some(()));
}

/// Tries until it succeeds. A program that another test starts at this moment
/// holds a copy of every descriptor until it has become that program.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came to be");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_pool_hands_out_each_slot_once_and_makes_more() {
    let pool = SlotPool::start(2).unwrap();
    let mut slots: Vec<Slot> = Vec::new();
    for _ in 0..5 {
        let slot = pool.take().await.unwrap();
        for earlier in &slots {
            assert!(!slot.namespace.is_same(&earlier.namespace).unwrap());
        }
        slots.push(slot);
    }
    while pool.ready_count() < 2 {
        tokio::task::yield_now().await;
    }
    let guest = Guest::new(slots.pop().unwrap().tap);
    guest.assert_unanswered("nothing");
}

#[tokio::test]
async fn a_pool_of_none_makes_slots_when_asked() {
    let pool = SlotPool::start(0).unwrap();
    let (one, other) = tokio::join!(pool.take(), pool.take());
    assert!(
        !one.unwrap()
            .namespace
            .is_same(&other.unwrap().namespace)
            .unwrap()
    );
    assert_eq!(pool.ready_count(), 0);
}
