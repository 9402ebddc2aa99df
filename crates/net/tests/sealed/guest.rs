//! A guest that speaks frames, by hand, so that it can say what no kernel says.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use etherparse::{
    EtherType, IpNumber, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_net::address::{
    GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, GUEST_IPV4, GUEST_IPV6, GUEST_MAC,
};

/// `struct virtio_net_hdr`, which a tap of ours wants before each frame.
pub(crate) const OFFLOAD_HEADER_LEN: usize = 10;
pub(crate) const ETHERNET_LEN: usize = 14;
/// The port a guest sends from unless a test says otherwise.
pub(crate) const GUEST_PORT: u16 = 40_000;
const FENCE_PORT: u16 = 9;
/// For what must come. The kernel answers while it takes the frame.
const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const AT_ONCE: Duration = Duration::from_millis(100);

pub(crate) struct Guest {
    tap: OwnedFd,
}

/// What a guest was told, as far as tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Tcp {
        from: SocketAddr,
        to: SocketAddr,
        syn: bool,
        rst: bool,
        sequence: u32,
        payload: Vec<u8>,
    },
    Udp {
        from: SocketAddr,
        payload: Vec<u8>,
    },
    /// `ICMP` or `ICMPv6` port unreachable, about a datagram to this port.
    PortUnreachable {
        port: u16,
    },
    /// An answer to ARP or a neighbour solicitation.
    Neighbour,
    Other(Vec<u8>),
}

impl Heard {
    /// Whether it is TCP to this port of the guest.
    pub(crate) fn is_to(&self, port: u16) -> bool {
        matches!(self, Self::Tcp { to, .. } if to.port() == port)
    }
}

impl Guest {
    pub(crate) fn new(tap: OwnedFd) -> Self {
        Self { tap }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.send_offloaded([0; OFFLOAD_HEADER_LEN], frame);
    }

    pub(crate) fn send_offloaded(&self, header: [u8; OFFLOAD_HEADER_LEN], frame: &[u8]) {
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        match rustix::io::writev(&self.tap, &parts) {
            Ok(length) => assert_eq!(length, OFFLOAD_HEADER_LEN + frame.len()),
            // Too short to be a frame at all: refused before anything else.
            Err(rustix::io::Errno::INVAL) => assert!(frame.len() < ETHERNET_LEN),
            Err(errno) => panic!("the tap took no frame: {errno}"),
        }
    }

    /// The next frame, if one comes in time; its hardware addresses are checked.
    pub(crate) fn hear_within(&self, patience: Duration) -> Option<Heard> {
        let mut ready = [PollFd::new(&self.tap, PollFlags::IN)];
        let patience = Timespec::try_from(patience).unwrap();
        poll(&mut ready, Some(&patience)).unwrap();
        let mut buffer = vec![0; 1 << 17];
        let length = match rustix::io::read(&self.tap, &mut buffer) {
            Ok(length) => length,
            Err(errno) if errno.kind() == ErrorKind::WouldBlock => return None,
            Err(errno) => panic!("cannot read the tap: {errno}"),
        };
        let frame = &buffer[OFFLOAD_HEADER_LEN..length];
        assert_eq!(frame[..6], GUEST_MAC, "sent to another than the guest");
        assert_eq!(frame[6..12], GATEWAY_MAC);
        Some(understand(frame))
    }

    pub(crate) fn hear(&self) -> Heard {
        self.hear_within(PATIENCE)
            .expect("the guest was told nothing")
    }

    /// Waits until everything sent before was dealt with, and checks that none
    /// of it was answered: the next thing heard answers a question asked now.
    pub(crate) fn assert_unanswered(&self, what: &str) {
        self.send(&udp(GATEWAY_IPV4.into(), GUEST_PORT, FENCE_PORT, b"fence"));
        let expected = Heard::PortUnreachable { port: FENCE_PORT };
        assert_eq!(self.hear(), expected, "{what} was answered");
    }

    /// Nothing more was said.
    pub(crate) fn assert_silence(&self) {
        assert_eq!(self.hear_within(Duration::ZERO), None);
    }

    /// Opens a connection; answers the sequence numbers of guest and peer.
    pub(crate) fn connect(&self, to: SocketAddr, port: u16) -> (u32, u32) {
        self.send(&syn(to, port));
        let answer = std::iter::repeat_with(|| self.hear()).find(|heard| heard.is_to(port));
        let Some(Heard::Tcp {
            from,
            syn: true,
            rst: false,
            sequence,
            ..
        }) = answer
        else {
            panic!("{answer:?} instead of a connection to {to}");
        };
        assert_eq!(from, to);
        let (ours, theirs) = (SYN_SEQUENCE + 1, sequence.wrapping_add(1));
        self.send(&tcp(to, port, ours, theirs, b""));
        (ours, theirs)
    }
}

pub(crate) const SYN_SEQUENCE: u32 = 1000;
const WINDOW: u16 = 64_000;

/// The guest's address towards this destination.
pub(crate) fn guest_ip(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => GUEST_IPV4.into(),
        IpAddr::V6(_) => GUEST_IPV6.into(),
    }
}

pub(crate) fn gateway_ip(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => GATEWAY_IPV4.into(),
        IpAddr::V6(_) => GATEWAY_IPV6.into(),
    }
}

/// A packet from the guest, as far as IP.
pub(crate) fn ip(to: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    ip_between(guest_ip(to), to)
}

pub(crate) fn ip_between(from: IpAddr, to: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families in one packet"),
    }
}

pub(crate) fn syn(to: SocketAddr, port: u16) -> Vec<u8> {
    syn_between(guest_ip(to.ip()), to, port)
}

pub(crate) fn syn_between(from: IpAddr, to: SocketAddr, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    ip_between(from, to.ip())
        .tcp(port, to.port(), SYN_SEQUENCE, WINDOW)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

pub(crate) fn tcp(to: SocketAddr, port: u16, ours: u32, theirs: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(to.ip())
        .tcp(port, to.port(), ours, WINDOW)
        .ack(theirs)
        .psh()
        .write(&mut frame, payload)
        .unwrap();
    frame
}

pub(crate) fn udp(to: IpAddr, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(to)
        .udp(from_port, to_port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// A packet of any protocol.
pub(crate) fn protocol(to: IpAddr, number: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(to).write(&mut frame, IpNumber(number), payload).unwrap();
    frame
}

/// A frame of any type.
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// The IP packet in a frame.
pub(crate) fn packet(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET_LEN..]
}

fn understand(frame: &[u8]) -> Heard {
    let other = || Heard::Other(frame.to_vec());
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    if EtherType(kind) == EtherType::ARP {
        return Heard::Neighbour;
    }
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (from, to): (IpAddr, IpAddr) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        Some(NetSlice::Ipv6(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        _ => return other(),
    };
    assert_eq!(to, guest_ip(to), "sent to another than the guest");
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Heard::Tcp {
            from: (from, tcp.source_port()).into(),
            to: (to, tcp.destination_port()).into(),
            syn: tcp.syn(),
            rst: tcp.rst(),
            sequence: tcp.sequence_number(),
            payload: tcp.payload().to_vec(),
        },
        Some(TransportSlice::Udp(udp)) => Heard::Udp {
            from: (from, udp.source_port()).into(),
            payload: udp.payload().to_vec(),
        },
        Some(TransportSlice::Icmpv4(icmp)) if icmp.slice().starts_with(&[3, 3]) => {
            unreachable_port(&icmp.slice()[8 + 20..])
        }
        Some(TransportSlice::Icmpv6(icmp)) if icmp.slice().starts_with(&[1, 4]) => {
            unreachable_port(&icmp.slice()[8 + 40..])
        }
        Some(TransportSlice::Icmpv6(icmp)) if icmp.slice().starts_with(&[136]) => Heard::Neighbour,
        _ => other(),
    }
}

/// From the UDP header that an ICMP error quotes.
fn unreachable_port(quoted: &[u8]) -> Heard {
    let port = u16::from_be_bytes([quoted[2], quoted[3]]);
    Heard::PortUnreachable { port }
}
