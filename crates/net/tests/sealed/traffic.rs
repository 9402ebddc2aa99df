//! What a slot carries: TCP and DNS, to whoever holds the sockets.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::guest::{
    AT_ONCE, ETHERNET_LEN, GUEST_PORT, Heard, OFFLOAD_HEADER_LEN, guest_ip, packet, syn, tcp, udp,
};
use crate::listener::{accept, answer, assert_nothing_arrived, receive};
use crate::{Rig, address, rig};
use etherparse::{IpFragOffset, Ipv4HeaderSlice};
use tokio::time::Instant;
use tombolo_net::address::{GATEWAY_MAC, GUEST_MAC};

const IPV4_LEN: usize = 20;

fn check_connection(rig: &Rig, to: SocketAddr, port: u16) {
    let (ours, theirs) = rig.guest.connect(to, port);
    let (mut stream, destination) = accept(&rig.sockets, to);
    assert_eq!(destination, to);
    let peer = SocketAddr::new(guest_ip(to.ip()), port);
    assert_eq!(stream.peer_addr().unwrap(), peer);
    rig.guest.send(&tcp(to, port, ours, theirs, b"question"));
    let mut said = [0; 8];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"question");
    stream.write_all(b"answer").unwrap();
    let mut heard = std::iter::repeat_with(|| rig.guest.hear());
    let answered = heard.find(|heard| {
        matches!(heard, Heard::Tcp { from, payload, .. } if *from == to && payload == b"answer")
    });
    assert!(answered.is_some_and(|heard| heard.is_to(port)));
}

/// NET-01: every port leads to the proxy.
#[test]
fn every_tcp_connection_arrives_with_its_destination() {
    let rig = rig();
    let destinations = [
        "93.184.216.34:443",
        "169.254.169.254:80",
        "8.8.8.8:22",
        "8.8.8.8:53",
        "1.1.1.1:1",
        "1.1.1.1:65535",
        "10.0.0.1:15001",
        "192.168.1.1:8080",
        "172.17.0.1:2375",
        "198.18.0.7:5432",
        "240.0.0.1:443",
        // The gateway has no ports of its own.
        "100.64.0.1:22",
        "100.64.0.1:15001",
        "[2606:4700::1]:443",
        "[2606:4700::1]:53",
        "[fd00:ec2::254]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:a9fe:a9fe::1]:80",
        "[fd54:6f6d:626f::1]:15001",
    ];
    for (to, port) in destinations.into_iter().zip(GUEST_PORT..) {
        check_connection(&rig, address(to), port);
    }
    assert_nothing_arrived(&rig.sockets, "something else");
}

#[test]
fn dns_arrives_with_its_destination_and_is_answered_from_it() {
    let rig = rig();
    for to in [
        "8.8.8.8:53",
        "100.64.0.1:53",
        "169.254.169.254:53",
        "[2606:4700::1111]:53",
        "[fd54:6f6d:626f::1]:53",
    ] {
        let to = address(to);
        rig.guest.send(&udp(to.ip(), GUEST_PORT, 53, b"question"));
        let question = receive(&rig.sockets, to);
        assert_eq!(question.payload, b"question");
        assert_eq!(question.to, to);
        assert_eq!(
            question.from,
            SocketAddr::new(guest_ip(to.ip()), GUEST_PORT)
        );
        answer(&rig.sockets, &question, b"answer");
        let expected = Heard::Udp {
            from: to,
            payload: b"answer".to_vec(),
        };
        assert_eq!(rig.guest.hear(), expected);
    }
}

/// NET-03, NET-04: other datagrams are refused at once.
#[test]
fn other_datagrams_are_refused_at_once_and_as_often_as_they_come() {
    let rig = rig();
    let hosts = ["93.184.216.34:0", "100.64.0.1:0", "[2606:4700::1]:0"];
    let ports = [443, 80, 8443, 123, 3478, 51_820, 853, 5353, 15_001];
    for _ in 0..20 {
        for host in hosts {
            for port in ports {
                let to = address(host).ip();
                rig.guest.send(&udp(to, GUEST_PORT, port, b"hello"));
                let heard = rig.guest.hear_within(AT_ONCE);
                assert_eq!(heard, Some(Heard::PortUnreachable { port }), "{host}");
            }
        }
    }
    assert_nothing_arrived(&rig.sockets, "a datagram");
}

/// A guest that floods is refused a thousand times, and a thousand a second.
#[test]
fn refusals_are_limited() {
    let rig = rig();
    let start = Instant::now();
    let to = address("93.184.216.34:443");
    let sent = 5000;
    let mut refused = 0;
    for _ in 0..sent {
        rig.guest
            .send(&udp(to.ip(), GUEST_PORT, to.port(), b"hello"));
        refused += u32::from(rig.guest.hear_within(Duration::ZERO).is_some());
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(refused >= 1000);
    assert!(f64::from(refused) <= 1001.0 + 1000.0 * seconds);
}

/// Cuts a packet after each so many bytes of what follows its IPv4 header.
fn fragments(frame: &[u8], piece_len: usize) -> Vec<Vec<u8>> {
    let header = Ipv4HeaderSlice::from_slice(packet(frame)).unwrap();
    let body = &packet(frame)[IPV4_LEN..];
    let count = body.chunks(piece_len).count();
    let cut = |(index, piece): (usize, &[u8])| {
        let mut header = header.to_header();
        header.identification = 77;
        header.dont_fragment = false;
        header.more_fragments = index + 1 < count;
        header.fragment_offset =
            IpFragOffset::try_new(u16::try_from(index * piece_len / 8).unwrap()).unwrap();
        header.set_payload_len(piece.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [&frame[..ETHERNET_LEN], &header.to_bytes(), piece].concat()
    };
    body.chunks(piece_len).enumerate().map(cut).collect()
}

/// NET-11: fragments are put together first.
#[test]
fn fragments_are_put_together_before_anything_is_decided() {
    let rig = rig();
    let to = address("8.8.8.8:53");
    let long: Vec<u8> = (0..4000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for piece_len in [8, 1000] {
        let mut pieces = fragments(&udp(to.ip(), GUEST_PORT, 53, &long), piece_len);
        // In any order.
        pieces.reverse();
        for piece in &pieces {
            rig.guest.send(piece);
        }
        let question = receive(&rig.sockets, to);
        assert_eq!((question.payload, question.to), (long.clone(), to));
    }
    // A header in two halves: the port is in the first, the flags in the second.
    let to = address("93.184.216.34:443");
    for piece in fragments(&syn(to, GUEST_PORT), 8) {
        rig.guest.send(&piece);
    }
    assert!(matches!(rig.guest.hear(), Heard::Tcp { from, syn: true, .. } if from == to));
    let refused = address("93.184.216.34:443");
    for piece in fragments(&udp(refused.ip(), GUEST_PORT, 443, &long), 1000) {
        rig.guest.send(&piece);
    }
    assert_eq!(rig.guest.hear(), Heard::PortUnreachable { port: 443 });
}

/// NET-11: those of IPv6 too.
#[test]
fn fragments_of_ipv6_are_put_together() {
    let rig = rig();
    let to = address("[2606:4700::1111]:53");
    let whole = udp(to.ip(), GUEST_PORT, 53, &[7; 1600]);
    let (header, body) = packet(&whole).split_at(40);
    let cut = |offset: usize, piece: &[u8], more: u8| {
        let mut header = header.to_vec();
        let length = u16::try_from(8 + piece.len()).unwrap().to_be_bytes();
        header[4..6].copy_from_slice(&length);
        header[6] = 44;
        let place = u16::try_from(offset).unwrap().to_be_bytes();
        let extension = [17, 0, place[0], place[1] | more, 0, 0, 0, 9];
        [&whole[..ETHERNET_LEN], &header, &extension, piece].concat()
    };
    rig.guest.send(&cut(800, &body[800..], 0));
    rig.guest.send(&cut(0, &body[..800], 1));
    let question = receive(&rig.sockets, to);
    assert_eq!((question.payload, question.to), (vec![7; 1600], to));
}

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_TCPV4`, as a guest's
/// driver uses them.
#[test]
fn a_guest_may_leave_checksums_and_segments_to_us() {
    let rig = rig();
    let to = address("93.184.216.34:443");
    let (ours, theirs) = rig.guest.connect(to, GUEST_PORT);
    let (mut stream, _) = accept(&rig.sockets, to);
    let long: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let mut frame = tcp(to, GUEST_PORT, ours, theirs, &long);
    let header_len = ETHERNET_LEN + IPV4_LEN + 20;
    let checksum = ETHERNET_LEN + IPV4_LEN + 16;
    let tcp_len = u16::try_from(frame.len() - ETHERNET_LEN - IPV4_LEN).unwrap();
    let sum = pseudo_sum(&frame, tcp_len).to_be_bytes();
    frame[checksum..checksum + 2].copy_from_slice(&sum);
    let mut header = [0; OFFLOAD_HEADER_LEN];
    header[0] = 1;
    header[1] = 1;
    let fields = [header_len, 1400, ETHERNET_LEN + IPV4_LEN, 16];
    for (field, value) in header[2..].chunks_mut(2).zip(fields) {
        field.copy_from_slice(&u16::try_from(value).unwrap().to_le_bytes());
    }
    assert_eq!(frame[..12], [GATEWAY_MAC, GUEST_MAC].concat());
    rig.guest.send_offloaded(header, &frame);
    let mut said = vec![0; long.len()];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(said, long);
}

/// The sum of a TCP packet's pseudo-header, which the card completes.
fn pseudo_sum(frame: &[u8], tcp_len: u16) -> u16 {
    let addresses = frame[ETHERNET_LEN + 12..ETHERNET_LEN + IPV4_LEN].chunks(2);
    let words = addresses.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>() + 6 + u32::from(tcp_len);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}
