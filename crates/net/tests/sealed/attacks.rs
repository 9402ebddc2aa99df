//! What must not get through. Each attack is a frame that would, but for one
//! thing; `the_bait_is_good` shows that.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use tombolo_net::address::{
    GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, GUEST_IPV4, GUEST_IPV6, GUEST_MAC,
};

use crate::guest::{
    ETHERNET_LEN, GUEST_PORT, Heard, frame, gateway_ip, ip, ip_between, packet, protocol, syn,
    syn_between, udp,
};
use crate::listener::{accept, assert_nothing_arrived};
use crate::{address, rig};

const OTHER_MAC: [u8; 6] = [0x02, 0x54, 0x6f, 0x6d, 0x62, 0x09];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const PUBLIC4: &str = "93.184.216.34:443";
const PUBLIC6: &str = "[2606:4700::1]:443";

fn bait4() -> Vec<u8> {
    syn(address(PUBLIC4), GUEST_PORT)
}

fn bait6() -> Vec<u8> {
    syn(address(PUBLIC6), GUEST_PORT)
}

fn check(attacks: &[(String, Vec<u8>)]) {
    let rig = rig();
    for (what, attack) in attacks {
        rig.guest.send(attack);
        rig.guest.assert_unanswered(what);
        assert_nothing_arrived(&rig.sockets, what);
    }
    rig.guest.assert_silence();
    rig.guest.connect(address(PUBLIC4), GUEST_PORT + 1);
}

fn named(attacks: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let own = |(what, attack): (&str, Vec<u8>)| (what.to_owned(), attack);
    attacks.into_iter().map(own).collect()
}

#[test]
fn the_bait_is_good() {
    for bait in [PUBLIC4, PUBLIC6] {
        let rig = rig();
        rig.guest.connect(address(bait), GUEST_PORT);
        accept(&rig.sockets, address(bait));
    }
}

/// NET-05, NET-06: no other protocol of IP passes.
#[test]
fn no_other_protocol_of_ip_passes() {
    let numbers = [
        ("ICMP", 1),
        ("IGMP", 2),
        ("IPIP", 4),
        ("6in4", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("AH", 51),
        ("ICMPv6", 58),
        ("OSPF", 89),
        ("SCTP", 132),
        ("UDP-Lite", 136),
        ("experiment 253", 253),
    ];
    let mut attacks = Vec::new();
    for to in [PUBLIC4, PUBLIC6, "100.64.0.1:0", "[fd54:6f6d:626f::1]:0"] {
        let to = address(to).ip();
        for (name, number) in numbers {
            // An inner packet that would pass, for the tunnels among them.
            let attack = protocol(to, number, packet(&bait4()));
            attacks.push((format!("{name} to {to}"), attack));
        }
        attacks.push((format!("an echo request to {to}"), echo(to)));
    }
    check(&attacks);
}

fn echo(to: IpAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    if to.is_ipv4() {
        let step = ip(to).icmpv4_echo_request(1, 1);
        step.write(&mut frame, b"tunnelled").unwrap();
    } else {
        let step = ip(to).icmpv6_echo_request(1, 1);
        step.write(&mut frame, b"tunnelled").unwrap();
    }
    frame
}

/// NET-10: no other source address is taken.
#[test]
fn nobody_else_can_be_spoken_for() {
    let mut attacks = Vec::new();
    for (bait, to, kind) in [(bait4(), PUBLIC4, IPV4), (bait6(), PUBLIC6, IPV6)] {
        // One datagram is enough to be heard, where a connection needs an answer.
        let question = udp(address(to).ip(), GUEST_PORT, 53, b"hello");
        for from in [OTHER_MAC, GATEWAY_MAC, BROADCAST_MAC, [0; 6]] {
            let attack = frame(GATEWAY_MAC, from, kind, packet(&bait));
            attacks.push((format!("hardware source {from:x?}"), attack));
        }
        for to in [OTHER_MAC, GUEST_MAC, BROADCAST_MAC, [1, 0, 0x5e, 0, 0, 1]] {
            for packet in [packet(&bait), packet(&question)] {
                let attack = frame(to, GUEST_MAC, kind, packet);
                attacks.push((format!("hardware destination {to:x?}"), attack));
            }
        }
    }
    let sources = [
        ("100.64.0.3", PUBLIC4),
        ("100.64.0.1", PUBLIC4),
        ("100.64.0.0", PUBLIC4),
        ("127.0.0.1", PUBLIC4),
        ("0.0.0.0", PUBLIC4),
        ("10.0.0.1", PUBLIC4),
        ("93.184.216.34", PUBLIC4),
        ("255.255.255.255", PUBLIC4),
        ("fd54:6f6d:626f::3", PUBLIC6),
        ("fd54:6f6d:626f::1", PUBLIC6),
        ("fe80::54:6fff:fe6d:6202", PUBLIC6),
        ("::1", PUBLIC6),
        ("::", PUBLIC6),
        ("::ffff:100.64.0.2", PUBLIC6),
        ("2606:4700::1", PUBLIC6),
    ];
    for (from, to) in sources {
        let (from, to) = (from.parse().unwrap(), address(to));
        let what = format!("source {from}");
        attacks.push((what.clone(), syn_between(from, to, GUEST_PORT)));
        let mut question = Vec::new();
        ip_between(from, to.ip())
            .udp(GUEST_PORT, 53)
            .write(&mut question, b"hello")
            .unwrap();
        attacks.push((what, question));
    }
    check(&attacks);
}

/// NET-07, NET-09, NET-10: no destination means the slot itself, or many.
#[test]
fn no_destination_means_the_slot_itself_or_many() {
    let destinations = [
        "127.0.0.1:15001",
        "127.0.0.1:53",
        "0.0.0.0:443",
        "0.1.2.3:443",
        "224.0.0.1:443",
        "239.255.255.250:443",
        "255.255.255.255:443",
        "100.64.0.2:443",
        "[::1]:15001",
        "[::]:443",
        "[::ffff:127.0.0.1]:15001",
        "[::ffff:169.254.169.254]:80",
        "[fe80::1]:443",
        "[ff02::1]:443",
        "[fd54:6f6d:626f::2]:443",
    ];
    let attack = |to: &&str| {
        (
            format!("a connection to {to}"),
            syn(address(to), GUEST_PORT),
        )
    };
    check(&destinations.iter().map(attack).collect::<Vec<_>>());
}

/// DHCP, mDNS, LLMNR, SSDP, and DNS to groups.
/// NET-10: no multicast or broadcast passes.
#[test]
fn no_datagram_to_many_passes() {
    let mut attacks = Vec::new();
    for (to, port) in [
        ("255.255.255.255", 67),
        ("100.64.0.3", 53),
        ("224.0.0.251", 5353),
        ("224.0.0.252", 5355),
        ("239.255.255.250", 1900),
        ("224.0.0.1", 53),
        ("ff02::1:2", 547),
        ("ff02::fb", 5353),
        ("ff02::1", 53),
    ] {
        let to: IpAddr = to.parse().unwrap();
        let datagram = udp(to, GUEST_PORT, port, b"hello");
        let kind = if to.is_ipv4() { IPV4 } else { IPV6 };
        for hardware in [
            BROADCAST_MAC,
            [0x33, 0x33, 0, 0, 0, 1],
            [1, 0, 0x5e, 0, 0, 1],
        ] {
            let attack = frame(hardware, GUEST_MAC, kind, packet(&datagram));
            attacks.push((format!("a datagram to {to}:{port}"), attack));
        }
    }
    check(&attacks);
}

/// NET-10: no VLAN tag or other frame passes.
#[test]
fn nothing_but_plain_ip_is_taken_from_the_wire() {
    let tagged = |tags: &[u8], kind: [u8; 2], bait: &[u8]| {
        let head = [&GATEWAY_MAC[..], &GUEST_MAC, tags, &kind].concat();
        [&head, packet(bait)].concat()
    };
    let mut attacks = named(vec![
        (
            "a priority tag",
            tagged(&[0x81, 0, 0x20, 0], [8, 0], &bait4()),
        ),
        ("a VLAN", tagged(&[0x81, 0, 0, 100], [8, 0], &bait4())),
        (
            "a VLAN in IPv6",
            tagged(&[0x81, 0, 0, 100], [0x86, 0xdd], &bait6()),
        ),
        (
            "a service tag",
            tagged(&[0x88, 0xa8, 0, 0], [8, 0], &bait4()),
        ),
        (
            "two tags",
            tagged(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 0], [8, 0], &bait4()),
        ),
        (
            "an LLC frame",
            frame(GATEWAY_MAC, GUEST_MAC, 60, &[0xaa; 60]),
        ),
        ("half an IPv4 header", bait4()[..ETHERNET_LEN + 10].to_vec()),
        ("half an IPv6 header", bait6()[..ETHERNET_LEN + 20].to_vec()),
        ("half a TCP header", bait4()[..ETHERNET_LEN + 30].to_vec()),
        ("no payload", bait4()[..ETHERNET_LEN].to_vec()),
        ("half a frame", bait4()[..8].to_vec()),
        (
            "IPv6 as IPv4",
            frame(GATEWAY_MAC, GUEST_MAC, IPV4, packet(&bait6())),
        ),
        (
            "IPv4 as IPv6",
            frame(GATEWAY_MAC, GUEST_MAC, IPV6, packet(&bait4())),
        ),
    ]);
    // MPLS, PPPoE, LLDP, MACsec, RARP, EAPOL, Wake-on-LAN, AppleTalk, an experiment.
    for kind in [
        0x8847, 0x8864, 0x88cc, 0x88e5, 0x8035, 0x888e, 0x0842, 0x809b, 0x88b5,
    ] {
        let attack = frame(GATEWAY_MAC, GUEST_MAC, kind, packet(&bait4()));
        attacks.push((format!("frame type {kind:x}"), attack));
    }
    check(&attacks);
}

/// NET-07, NET-11: no option and no extension header passes.
#[test]
fn no_option_or_extension_header_passes() {
    let mut attacks = Vec::new();
    // Loose source route, strict source route, record route, router alert.
    for option in [131, 137, 7, 148] {
        let mut header = packet(&bait4())[..20].to_vec();
        header[0] = 0x47;
        header[3] += 8;
        let options = [option, 7, 4, 8, 8, 8, 8, 0];
        let mut whole = [&header, &options[..], &packet(&bait4())[20..]].concat();
        let sum = checksum(&whole[..28]).to_be_bytes();
        whole[10..12].copy_from_slice(&sum);
        let attack = frame(GATEWAY_MAC, GUEST_MAC, IPV4, &whole);
        attacks.push((format!("IPv4 option {option}"), attack));
    }
    // Hop by hop, routing, destination options, none, mobility, HIP, shim6.
    for extension in [0, 43, 60, 59, 135, 139, 140] {
        let bait = bait6();
        let mut header = packet(&bait)[..40].to_vec();
        header[5] += 8;
        header[6] = extension;
        // Padding of four bytes; the TCP header follows.
        let whole = [&header, &[6, 0, 1, 4, 0, 0, 0, 0][..], &packet(&bait)[40..]].concat();
        let attack = frame(GATEWAY_MAC, GUEST_MAC, IPV6, &whole);
        attacks.push((format!("IPv6 extension {extension}"), attack));
    }
    // The same inside the only extension that is taken.
    let bait = bait6();
    let mut header = packet(&bait)[..40].to_vec();
    header[5] += 16;
    header[6] = 44;
    let extensions = [60, 0, 0, 0, 0, 0, 0, 1, 6, 0, 1, 4, 0, 0, 0, 0];
    let whole = [&header, &extensions[..], &packet(&bait)[40..]].concat();
    let attack = frame(GATEWAY_MAC, GUEST_MAC, IPV6, &whole);
    attacks.push(("an extension in a fragment".to_owned(), attack));
    check(&attacks);
}

fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks(2)
        .enumerate()
        .filter(|(index, _)| *index != 5);
    let sum: u32 = words
        .map(|(_, pair)| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// NET-11: what is broken is dropped.
#[test]
fn what_is_broken_is_dropped() {
    let flip = |mut frame: Vec<u8>, at: usize| {
        frame[ETHERNET_LEN + at] ^= 0x55;
        frame
    };
    check(&named(vec![
        ("a wrong IPv4 checksum", flip(bait4(), 10)),
        ("a wrong TCP checksum", flip(bait4(), 36)),
        ("a wrong TCP checksum in IPv6", flip(bait6(), 56)),
        ("an end without a beginning", flip(bait4(), 33)),
    ]));
}

fn arp(operation: ArpOperation, from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &from.0,
        &from.1,
        &to.0,
        &to.1,
    )
    .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, BROADCAST_MAC)
        .arp(packet)
        .write(&mut frame)
        .unwrap();
    frame
}

/// NET-10: ARP teaches nothing.
#[test]
fn arp_tells_the_gateway_and_learns_nothing() {
    let (request, reply) = (ArpOperation::REQUEST, ArpOperation::REPLY);
    let guest = (GUEST_MAC, GUEST_IPV4.octets());
    let gateway = ([0; 6], GATEWAY_IPV4.octets());
    let other = [100, 64, 0, 3];
    check(&named(vec![
        (
            "a claim to the gateway",
            arp(reply, (GUEST_MAC, gateway.1), guest),
        ),
        (
            "a question as the gateway",
            arp(request, (GUEST_MAC, gateway.1), gateway),
        ),
        (
            "a move of the guest",
            arp(reply, (OTHER_MAC, guest.1), gateway),
        ),
        (
            "a question with a move",
            arp(request, (OTHER_MAC, guest.1), gateway),
        ),
        (
            "a reply nobody asked for",
            arp(reply, guest, (GATEWAY_MAC, gateway.1)),
        ),
        (
            "a gratuitous request",
            arp(request, guest, ([0; 6], guest.1)),
        ),
        ("a probe", arp(request, (GUEST_MAC, [0; 4]), gateway)),
        (
            "a question for another",
            arp(request, guest, ([0; 6], other)),
        ),
        (
            "a question for a public host",
            arp(request, guest, ([0; 6], [93, 184, 216, 34])),
        ),
        (
            "a question by another",
            arp(request, (GUEST_MAC, other), gateway),
        ),
    ]));
    let rig = rig();
    rig.guest.send(&arp(request, guest, gateway));
    assert_eq!(rig.guest.hear(), Heard::Neighbour);
}

/// A neighbour or router message with its checksum.
fn icmpv6(from: IpAddr, to: &str, hop_limit: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to.parse().unwrap()) else {
        panic!("not IPv6");
    };
    let mut first = [0; 4];
    first.copy_from_slice(&body[..4]);
    let solicited = [0x33, 0x33, 0xff, 0, 0, 1];
    let hardware = if to.is_multicast() {
        solicited
    } else {
        GATEWAY_MAC
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, hardware)
        .ipv6(from.octets(), to.octets(), hop_limit)
        .icmpv6_raw(kind, 0, first)
        .write(&mut frame, &body[4..])
        .unwrap();
    frame
}

/// Target, and a link-layer address as option of this kind.
fn neighbour(target: &str, option: u8, hardware: [u8; 6]) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    [
        &[0x60, 0, 0, 0],
        &target.octets()[..],
        &[option, 1],
        &hardware,
    ]
    .concat()
}

const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
/// Where the gateway is asked for.
const SOLICITED: &str = "ff02::1:ff00:1";
const GATEWAY: &str = "fd54:6f6d:626f::1";
const GUEST: &str = "fd54:6f6d:626f::2";

fn claims() -> Vec<(&'static str, Vec<u8>)> {
    let guest = IpAddr::from(GUEST_IPV6);
    let moved = neighbour(GUEST, 2, OTHER_MAC);
    let gateway = neighbour(GATEWAY, 2, GUEST_MAC);
    vec![
        (
            "a move of the guest",
            icmpv6(guest, GATEWAY, 255, ADVERTISE, &moved),
        ),
        (
            "a claim to the gateway",
            icmpv6(guest, "ff02::1", 255, ADVERTISE, &gateway),
        ),
        (
            "a router",
            icmpv6(LOCAL.into(), "ff02::1", 255, 134, &[0; 12]),
        ),
        (
            "a router, unicast",
            icmpv6(guest, GATEWAY, 255, 134, &[0; 12]),
        ),
        (
            "a redirect",
            icmpv6(GATEWAY_IPV6.into(), GATEWAY, 255, 137, &[0; 36]),
        ),
        ("a group", icmpv6(guest, "ff02::16", 1, 143, &[0; 24])),
    ]
}

fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let guest = IpAddr::from(GUEST_IPV6);
    let gateway = neighbour(GATEWAY, 1, GUEST_MAC);
    let public = neighbour("2606:4700::1", 1, GUEST_MAC);
    let asked = icmpv6(guest, SOLICITED, 255, SOLICIT, &gateway);
    let to_all = frame(BROADCAST_MAC, GUEST_MAC, IPV6, packet(&asked));
    let ask = |from, hop_limit, body: &[u8]| icmpv6(from, SOLICITED, hop_limit, SOLICIT, body);
    vec![
        (
            "a question for routers",
            icmpv6(guest, "ff02::2", 255, 133, &[0; 4]),
        ),
        ("a question to all", to_all),
        ("a question from afar", ask(guest, 64, &gateway)),
        ("a question by another", ask(LOCAL.into(), 255, &gateway)),
        ("a question for another", ask(guest, 255, &public)),
        (
            "a duplicate's question",
            ask("::".parse().unwrap(), 255, &gateway[..20]),
        ),
    ]
}

/// The guest's own link-local address.
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x54, 0x6fff, 0xfe6d, 0x6202);

/// NET-10: nor does neighbour discovery.
#[test]
fn neighbour_discovery_tells_the_gateway_and_learns_nothing() {
    check(&named([claims(), questions()].concat()));
    let rig = rig();
    let truth = neighbour(GATEWAY, 1, GUEST_MAC);
    // It may claim what it likes in the option: answers go where they always go.
    let lie = neighbour(GATEWAY, 1, OTHER_MAC);
    for question in [truth, lie] {
        for to in [SOLICITED, GATEWAY] {
            let asked = icmpv6(GUEST_IPV6.into(), to, 255, SOLICIT, &question);
            rig.guest.send(&asked);
            assert_eq!(rig.guest.hear(), Heard::Neighbour, "{to}");
        }
    }
    rig.guest.connect(address(PUBLIC6), GUEST_PORT);
}

/// NET-11: overlapping fragments are dropped.
#[test]
fn overlapping_fragments_are_dropped() {
    let whole = udp("8.8.8.8".parse().unwrap(), GUEST_PORT, 53, &[7; 64]);
    let cut = |offset: usize, piece: &[u8], more: u8| {
        let mut header = packet(&whole)[..20].to_vec();
        let length = u16::try_from(20 + piece.len()).unwrap().to_be_bytes();
        header[2..4].copy_from_slice(&length);
        header[4..6].copy_from_slice(&[0, 9]);
        header[6] = more;
        header[7] = u8::try_from(offset / 8).unwrap();
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        frame(GATEWAY_MAC, GUEST_MAC, IPV4, &[&header, piece].concat())
    };
    let body = &packet(&whole)[20..];
    check(&named(vec![
        ("a beginning", cut(0, &body[..32], 0x20)),
        ("a piece over it", cut(24, &[9; 24], 0x20)),
        ("the end", cut(32, &body[32..], 0)),
    ]));
}

/// Destinations are told apart by policy, later; the gateway is one of them.
/// NET-09: nothing but the proxy listens at the gateway.
#[test]
fn the_gateway_has_no_service_of_its_own() {
    let rig = rig();
    let gateway = gateway_ip(address(PUBLIC4).ip());
    for port in [1, 22, 80, 111, 2375, 15_001] {
        rig.guest.send(&udp(gateway, GUEST_PORT, port, b"hello"));
        assert_eq!(rig.guest.hear(), Heard::PortUnreachable { port });
    }
    assert_nothing_arrived(&rig.sockets, "a datagram");
}
