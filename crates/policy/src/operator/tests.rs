//! The operator's tables.

use super::*;

fn name(text: &str) -> HostName {
    HostName::parse(text).expect("a name")
}

#[test]
fn a_key_with_the_port_goes_before_one_without() {
    let hosts = [
        ("db.internal", "10.0.0.5"),
        ("db.internal:443", "127.0.0.1:8443"),
        ("v6.internal", "[fd12::5]:99"),
        ("Web.Internal.", "fd12::5"),
    ];
    let rules = OperatorRules::parse(hosts, []).expect("rules");
    for (host, port, expected) in [
        (
            "db.internal",
            443,
            Some(("db.internal:443", "127.0.0.1:8443")),
        ),
        ("db.internal", 5432, Some(("db.internal", "10.0.0.5:5432"))),
        ("v6.internal", 1, Some(("v6.internal", "[fd12::5]:99"))),
        ("web.internal", 80, Some(("web.internal", "[fd12::5]:80"))),
        ("other.internal", 80, None),
        ("a.db.internal", 443, None),
    ] {
        let found = rules.host_override(&name(host), port);
        let found = found.map(|found| (found.key, found.target.to_string()));
        let expected = expected.map(|(key, target)| (key.to_owned(), target.to_owned()));
        assert_eq!(found, expected, "{host}:{port}");
    }
    assert!(rules.overrides_name(&name("v6.internal")));
    assert!(!rules.overrides_name(&name("other.internal")));
}

#[test]
fn tables_that_mean_nothing_are_refused() {
    for (key, target, hint) in [
        ("*.internal", "10.0.0.5", "not a host name"),
        ("10.0.0.1", "10.0.0.5", "not a host name"),
        ("a b", "10.0.0.5", "not a host name"),
        ("a.internal", "b.internal", "is not an address"),
        ("a.internal", "10.0.0.5:0", "is not an address"),
        ("a.internal", "169.254.169.254", "stays closed"),
        ("a.internal", "[::ffff:169.254.169.254]:80", "stays closed"),
    ] {
        let error = OperatorRules::parse([(key, target)], []).expect_err(key);
        assert!(error.to_string().contains(hint), "{key} {target}: {error}");
    }
    for (network, hint) in [
        ("8.8.8.0/24", "not a private range"),
        ("127.0.0.0/8", "not a private range"),
        ("0.0.0.0/0", "not a private range"),
        ("10.0.0.0/8:80", "not a range"),
        ("example.com", "not a range"),
    ] {
        let error = OperatorRules::parse([], [network]).expect_err(network);
        assert!(error.to_string().contains(hint), "{network}: {error}");
    }
}

#[test]
fn all_private_networks_are_those_that_may_be_listed() {
    let listed = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "[fc00::/7]",
    ];
    let mut listed = OperatorRules::parse([], listed)
        .expect("rules")
        .private_networks;
    let mut all = OperatorRules::all_private().private_networks;
    listed.sort_unstable();
    all.sort_unstable();
    assert_eq!(all, listed);
}

#[test]
fn private_networks_are_closed_until_they_are_listed() {
    let range = |text: &str| text.parse::<IpNet>().expect("a range");
    assert!(!OperatorRules::closed().may_open(&range("10.1.0.0/16")));
    let rules = OperatorRules::parse([], ["10.0.0.0/8", "[fd12::/16]"]).expect("rules");
    assert!(rules.may_open(&range("10.1.0.0/16")));
    assert!(rules.may_open(&range("fd12:1::/32")));
    assert!(!rules.may_open(&range("192.168.0.0/24")));
    assert!(!rules.may_open(&range("0.0.0.0/0")));
}
