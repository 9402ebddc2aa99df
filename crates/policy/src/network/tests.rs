//! Network decisions, by the ids of the attacks they decide.

use super::*;
use crate::decision::Verdict;

const OPERATOR_HOSTS: [(&str, &str); 3] = [
    ("db.internal", "10.0.0.5:5432"),
    ("app.localhost", "127.0.0.1:8080"),
    ("metadata.google.internal", "10.9.9.9"),
];

fn policy(entries: Option<&[&str]>) -> NetworkPolicy {
    let parse = |text: &&str| AllowEntry::parse(text).expect("an entry");
    let entries = entries.map(|entries| entries.iter().map(parse).collect());
    let operator = OperatorRules::parse(OPERATOR_HOSTS, ["10.0.0.0/8", "100.64.0.0/10"]);
    NetworkPolicy::new(entries, operator.expect("rules"))
}

fn name(text: &str) -> HostName {
    HostName::parse(text).expect("a name")
}

fn connect(policy: &NetworkPolicy, target: &str, port: u16) -> Decision {
    match target.parse() {
        Ok(address) => policy.decide_connect(Target::Address(address), port, Transport::Tcp),
        Err(_) => policy.decide_connect(Target::Name(&name(target)), port, Transport::Tcp),
    }
}

/// The verdict follows from the reason, so a case names the reason only.
fn check(entries: Option<&[&str]>, target: &str, port: u16, reason: Reason) {
    let decision = connect(&policy(entries), target, port);
    assert_eq!(decision.reason, reason, "{entries:?} {target}:{port}");
    let allows = matches!(
        reason,
        Reason::Listed | Reason::Unrestricted | Reason::Override
    );
    assert_eq!(decision.is_allowed(), allows, "{decision:?}");
}

const LIST: Option<&[&str]> = Some(&[
    "example.com",
    "api.example.com:443",
    "*.good.test",
    "*.ports.test:8443",
    "93.184.216.34:443",
    "[2606:4700::/32]",
    "10.1.0.0/16:5432",
    "db.internal",
    "app.localhost",
]);

/// NET-01, NET-20: hosts and ports are what the list says.
#[test]
fn net_01_and_net_20_hosts_and_ports_are_what_the_list_says() {
    for (target, port, reason) in [
        ("example.com", 443, Reason::Listed),
        ("example.com", 22, Reason::Listed),
        ("api.example.com", 443, Reason::Listed),
        ("api.example.com", 80, Reason::PortNotListed),
        ("sub.example.com", 443, Reason::NotListed),
        ("a.good.test", 1, Reason::Listed),
        ("a.b.good.test", 1, Reason::Listed),
        ("good.test", 443, Reason::NotListed),
        ("evilgood.test", 443, Reason::NotListed),
        ("a.ports.test", 8443, Reason::Listed),
        ("a.ports.test", 443, Reason::PortNotListed),
        ("93.184.216.34", 443, Reason::Listed),
        ("93.184.216.34", 80, Reason::PortNotListed),
        ("93.184.216.35", 443, Reason::NotListed),
        ("2606:4700::1", 443, Reason::Listed),
        ("2607:4700::1", 443, Reason::NotListed),
    ] {
        check(LIST, target, port, reason);
    }
}

#[test]
fn an_empty_list_is_no_network_and_none_is_all_that_is_public() {
    check(Some(&[]), "example.com", 443, Reason::NetworkOff);
    check(Some(&[]), "8.8.8.8", 53, Reason::NetworkOff);
    check(None, "example.com", 443, Reason::Unrestricted);
    check(None, "8.8.8.8", 22, Reason::Unrestricted);
    assert!(policy(None).is_unrestricted() && !policy(Some(&[])).is_unrestricted());
}

/// NET-02: a hard coded address needs an entry of its own.
#[test]
fn net_02_a_hard_coded_address_needs_an_entry_of_its_own() {
    check(
        Some(&["example.com"]),
        "93.184.216.34",
        443,
        Reason::NotListed,
    );
}

/// NET-03, NET-04, NET-05, NET-06: only TCP leaves.
#[test]
fn net_03_to_06_only_tcp_leaves() {
    let policy = policy(None);
    for transport in [Transport::Udp, Transport::Other(1), Transport::Other(132)] {
        let target = Target::Name(&name("example.com"));
        let decision = policy.decide_connect(target, 443, transport);
        assert_eq!(decision.reason, Reason::ProtocolNotAllowed, "{transport:?}");
        assert_eq!(decision.verdict, Verdict::Deny);
    }
}

/// NET-07: other ways to write an address are the address.
#[test]
fn net_07_other_ways_to_write_an_address_are_the_address() {
    check(LIST, "::ffff:93.184.216.34", 443, Reason::Listed);
    check(LIST, "64:ff9b::93.184.216.34", 443, Reason::Listed);
    check(LIST, "::ffff:93.184.216.35", 443, Reason::NotListed);
    check(LIST, "2002:5db8:d822::1", 443, Reason::ReservedAddress);
    check(None, "::ffff:127.0.0.1", 80, Reason::Loopback);
    check(None, "64:ff9b::10.0.0.1", 80, Reason::PrivateAddress);
    check(LIST, "::ffff:10.1.0.7", 5432, Reason::Listed);
}

/// NET-08: metadata is closed to every list.
#[test]
fn net_08_metadata_is_closed_to_every_list() {
    let wide: [Option<&[&str]>; 3] = [
        None,
        Some(&["0.0.0.0/0", "[::/0]", "169.254.169.254", "168.63.129.16"]),
        Some(&[
            "*.internal",
            "*.google.internal",
            "metadata.google.internal",
            "100.64.0.0/10",
            "[fd00::/8]",
        ]),
    ];
    for entries in wide {
        for target in [
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "metadata.google.internal",
            "instance-data",
        ] {
            check(entries, target, 80, Reason::Metadata);
        }
        let decision = policy(entries).decide_name(&name("Metadata.Google.Internal."));
        assert_eq!(decision.reason, Reason::Metadata);
    }
}

/// NET-09: closed ranges stay closed.
#[test]
fn net_09_closed_ranges_stay_closed() {
    for (entries, target, reason) in [
        (None, "10.1.2.3", Reason::PrivateAddress),
        (None, "192.168.0.1", Reason::PrivateAddress),
        (None, "100.64.0.1", Reason::PrivateAddress),
        (None, "fd12::1", Reason::PrivateAddress),
        (None, "127.0.0.1", Reason::Loopback),
        (None, "::1", Reason::Loopback),
        (None, "localhost", Reason::Loopback),
        (None, "a.localhost", Reason::Loopback),
        (None, "169.254.1.1", Reason::LinkLocal),
        (None, "fe80::1", Reason::LinkLocal),
        (None, "224.0.0.251", Reason::Multicast),
        (None, "198.18.0.5", Reason::ReservedAddress),
        (None, "0.0.0.0", Reason::ReservedAddress),
        (None, "203.0.113.1", Reason::ReservedAddress),
        // The whole Internet is not the LAN.
        (Some(&["0.0.0.0/0"][..]), "10.1.2.3", Reason::PrivateAddress),
        (
            Some(&["127.0.0.1", "127.0.0.0/8"]),
            "127.0.0.1",
            Reason::Loopback,
        ),
        (Some(&["10.0.0.0/8"]), "10.1.2.3", Reason::Listed),
        (Some(&["10.0.0.0/8:443"]), "10.1.2.3", Reason::PortNotListed),
        // The operator keeps this one closed.
        (
            Some(&["192.168.0.0/16"]),
            "192.168.0.1",
            Reason::PrivateAddress,
        ),
    ] {
        check(entries, target, 80, reason);
    }
}

#[test]
fn the_operators_addresses_are_marked_and_permit_nothing() {
    check(LIST, "db.internal", 5432, Reason::Override);
    check(LIST, "app.localhost", 80, Reason::Override);
    check(None, "db.internal", 1, Reason::Override);
    check(
        Some(&["example.com"]),
        "db.internal",
        5432,
        Reason::NotListed,
    );
    check(
        Some(&["db.internal:5432"]),
        "db.internal",
        80,
        Reason::PortNotListed,
    );
    let found = policy(LIST)
        .host_override(&name("db.internal"), 99)
        .expect("an override");
    assert_eq!(found.target.to_string(), "10.0.0.5:5432");
}

/// DNS-06, DNS-07: what a name resolves to is filtered.
#[test]
fn dns_06_and_dns_07_what_a_name_resolves_to_is_filtered() {
    for (entries, host, address, port, reason) in [
        (LIST, "example.com", "93.184.216.34", 443, Reason::Listed),
        (
            None,
            "example.com",
            "93.184.216.34",
            443,
            Reason::Unrestricted,
        ),
        (
            LIST,
            "example.com",
            "10.0.0.1",
            443,
            Reason::ResolvedPrivate,
        ),
        (
            LIST,
            "example.com",
            "127.0.0.1",
            443,
            Reason::ResolvedPrivate,
        ),
        (
            LIST,
            "example.com",
            "::ffff:127.0.0.1",
            443,
            Reason::ResolvedPrivate,
        ),
        (LIST, "example.com", "169.254.169.254", 80, Reason::Metadata),
        (LIST, "example.com", "fd00:ec2::254", 80, Reason::Metadata),
        (
            None,
            "example.com",
            "10.1.0.1",
            5432,
            Reason::ResolvedPrivate,
        ),
        // The guest could connect there by address.
        (LIST, "example.com", "10.1.0.1", 5432, Reason::Listed),
        (
            LIST,
            "example.com",
            "10.1.0.1",
            443,
            Reason::ResolvedPrivate,
        ),
        (LIST, "other.com", "93.184.216.34", 443, Reason::NotListed),
        (
            LIST,
            "api.example.com",
            "93.184.216.34",
            80,
            Reason::PortNotListed,
        ),
    ] {
        let address = address.parse().expect("an address");
        let decision = policy(entries).decide_resolved(&name(host), address, port);
        assert_eq!(decision.reason, reason, "{host} {address}:{port}");
    }
}

/// DNS-01: only permitted names have addresses.
#[test]
fn dns_01_only_permitted_names_have_addresses() {
    let policy = policy(LIST);
    for (host, reason) in [
        ("example.com", Reason::Listed),
        ("api.example.com", Reason::Listed),
        ("data.evil.test", Reason::NotListed),
        ("localhost", Reason::Loopback),
        ("app.localhost", Reason::Listed),
    ] {
        assert_eq!(policy.decide_name(&name(host)).reason, reason, "{host}");
    }
}

/// DNS-09: exact names are not counted for a wildcard.
#[test]
fn dns_09_exact_names_are_not_counted_for_a_wildcard() {
    let policy = policy(Some(&["*.good.test", "www.good.test"]));
    for (host, wildcard) in [("a.good.test", Some("good.test")), ("www.good.test", None)] {
        let decision = policy.decide_name(&name(host));
        assert!(decision.is_allowed());
        let found = policy.wildcard(&decision).map(HostName::as_str);
        assert_eq!(found, wildcard, "{host}");
    }
}

#[test]
fn a_decision_names_its_rule() {
    let policy = policy(LIST);
    for (target, port, rule) in [
        ("api.example.com", 443, "allow_net:api.example.com:443"),
        ("api.example.com", 80, "allow_net:api.example.com:443"),
        ("a.good.test", 80, "allow_net:*.good.test"),
        ("evil.test", 80, "default"),
        ("127.0.0.1", 80, "builtin"),
        ("db.internal", 80, "override:db.internal"),
    ] {
        assert_eq!(
            connect(&policy, target, port).rule.to_string(),
            rule,
            "{target}"
        );
    }
}
