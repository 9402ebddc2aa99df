//! From documents to policies: what is refused, where, and what to write instead.

use serde_json::{Value, json};

use super::*;
use crate::{
    intercept::{InterceptReason, Interception},
    network::Target,
};

const fn is_shared_between_threads<T: Send + Sync>() {}
const _: () = is_shared_between_threads::<Policy>();

fn compile(document: Value) -> Result<Policy, PolicyError> {
    let document = serde_json::from_value(document).expect("a document");
    let operator = OperatorRules::parse([], ["10.0.0.0/8"]).expect("rules");
    Policy::compile(&document, &operator, &BTreeMap::new())
}

fn check(field: &str, value: Value, expected: &str) {
    let mut document = json!({"version": 1});
    document[field] = value;
    let error = compile(document.clone()).expect_err(expected).to_string();
    assert!(error.contains(expected), "{document}: {error}");
}

#[test]
fn problems_name_their_place_and_what_to_write() {
    check(
        "version",
        json!(2),
        "version: version 2 of policies is not known; this is version 1",
    );
    check(
        "allow_net",
        json!(["a.com", "https://b.com"]),
        "allow_net[1]: `https://b.com`: an entry is a host, not a URL",
    );
    check(
        "allow_net",
        json!(["192.168.0.0/16"]),
        "allow_net[0]: `192.168.0.0/16` is a private range that this server does not open",
    );
    for entry in [
        "169.254.169.254",
        "127.0.0.1:80",
        "169.254.0.0/16",
        "[::1]",
        "100.100.100.200",
        "[fd00:ec2::254]",
        "224.0.0.1",
        "198.18.0.0/16",
    ] {
        check("allow_net", json!([entry]), "can never be reached");
    }
    check(
        "allow_net",
        json!(vec!["a.com"; ALLOW_NET_MAX + 1]),
        "more than 1024 entries",
    );
}

#[test]
fn problems_of_secrets() {
    for (secret, expected) in [
        (json!({"hosts": []}), "secrets.K.hosts: must not be empty"),
        (json!({"hosts": ["a b"]}), "secrets.K.hosts[0]"),
        (json!({"hosts": ["10.0.0.1"]}), "`10.0.0.1` is an address"),
        (
            json!({"hosts": ["a.com"], "in": []}),
            "secrets.K.in: must not be empty",
        ),
        (
            json!({"hosts": ["a.com"], "placeholder": {"shape": "sk-"}}),
            "placeholder.shape",
        ),
        (
            json!({"hosts": ["a.com"], "placeholder": {"shape": "{}{}"}}),
            "placeholder.shape",
        ),
        (
            json!({"hosts": ["a.com"], "placeholder": {"shape": "a/{}"}}),
            "placeholder.shape",
        ),
    ] {
        check("secrets", json!({"K": secret}), expected);
    }
    for name in ["", "1A", "A-B", "A B", "é"] {
        check(
            "secrets",
            json!({name: {"hosts": ["a.com"]}}),
            "is not a name for a secret",
        );
    }
}

#[test]
fn problems_of_rules() {
    for (rule, expected) in [
        (
            json!({"id": "", "host": "a.com"}),
            "net.rules[0].id: `` is not an id",
        ),
        (json!({"id": "a b", "host": "a.com"}), "is not an id"),
        (
            json!({"id": "r", "host": []}),
            "net.rules[0].host: must not be empty",
        ),
        (json!({"id": "r", "host": "*"}), "net.rules[0].host[0]"),
        (
            json!({"id": "r", "host": "a.com", "action": "deny", "rate": "1/s"}),
            "a rule that denies has neither",
        ),
        (
            json!({"id": "r", "host": "a.com", "action": "deny", "max_body_bytes": 1}),
            "a rule that denies has neither",
        ),
        (
            json!({"id": "r", "host": "a.com", "mode": "audit"}),
            "set `net.mode` to `audit`",
        ),
        (
            json!({"id": "r", "host": "a.com", "method": "get"}),
            "write it in upper case",
        ),
        (
            json!({"id": "r", "host": "a.com", "path": "a"}),
            "net.rules[0].path[0]: `a`: a glob",
        ),
        (
            json!({"id": "r", "host": "a.com", "headers": {"a b": true}}),
            "not the name of a header",
        ),
        (
            json!({"id": "r", "host": "a.com", "query": {"a": []}}),
            "net.rules[0].query.a: must not be empty",
        ),
        (
            json!({"id": "r", "host": "a.com", "content_type": "json"}),
            "not a media type",
        ),
        (
            json!({"id": "r", "host": "a.com", "content_type": "*/*"}),
            "not a media type",
        ),
        (
            json!({"id": "r", "host": "a.com", "content_type": "a/b; c=d"}),
            "not a media type",
        ),
        (
            json!({"id": "r", "host": "a.com", "rate": "10"}),
            "is not a rate",
        ),
        (
            json!({"id": "r", "host": "a.com", "rate": "0/s"}),
            "is not a rate",
        ),
        (
            json!({"id": "r", "host": "a.com", "rate": "+1/s"}),
            "is not a rate",
        ),
        (
            json!({"id": "r", "host": "a.com", "rate": "1/week"}),
            "is not a rate",
        ),
        (
            json!({"id": "r", "host": "a.com", "json": {"a": {"present": true}}}),
            "begins with a slash",
        ),
        (
            json!({"id": "r", "host": "a.com", "json": {"/a": {}}}),
            "says nothing",
        ),
        (
            json!({"id": "r", "host": "a.com", "json": {"/a": {"present": false, "min": 1}}}),
            "cannot have other conditions",
        ),
        (
            json!({"id": "r", "host": "a.com", "json": {"/a": {"in": []}}}),
            "json./a.in: must not be empty",
        ),
        (
            json!({"id": "r", "host": "a.com", "when": "x == 1"}),
            "net.rules[0].when: `x` is not a variable",
        ),
        (
            json!({"id": "r", "host": "a.com", "guidance": "a".repeat(2000)}),
            "more than 1024 characters",
        ),
    ] {
        check("net", json!({"rules": [rule]}), expected);
    }
    let rule = json!({"id": "r", "host": "a.com"});
    check(
        "net",
        json!({"rules": [rule, rule]}),
        "net.rules[1].id: `r` is the id of another rule",
    );
    check(
        "net",
        json!({"inspect_body_bytes": 0}),
        "net.inspect_body_bytes",
    );
    check(
        "net",
        json!({"inspect_body_bytes": INSPECT_BODY_BYTES_MAX + 1}),
        "net.inspect_body_bytes",
    );
}

#[test]
fn what_is_passed_through_cannot_be_looked_into() {
    let document = |passthrough: &str| {
        json!({
            "version": 1,
            "secrets": {"K": {"hosts": ["api.a.com", "*.b.com:8443"]}},
            "net": {"passthrough": [passthrough], "rules": [{"id": "r", "host": "c.com"}]}
        })
    };
    for (passthrough, expected) in [
        ("api.a.com", Some("secret `K`")),
        ("api.a.com:443", Some("secret `K`")),
        ("*.a.com", Some("secret `K`")),
        ("x.b.com", Some("secret `K`")),
        ("c.com:9", Some("rule `r`")),
        ("10.0.0.1", Some("is an address")),
        ("api.a.com:444", None),
        ("x.b.com:443", None),
        ("a.com", None),
    ] {
        match (compile(document(passthrough)), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            (other, _) => panic!("{passthrough}: {other:?}"),
        }
    }
}

#[test]
fn a_revoked_secret_is_looked_for_where_the_author_says_nothing_else() {
    let revoked = json!({"K": {"hosts": ["api.a.com", "api.b.com"], "require": true}});
    let revoked = serde_json::from_value(revoked).expect("bindings");
    let document = json!({"version": 1, "net": {"passthrough": ["api.b.com"]}});
    let policy = compile(document).expect("a policy");
    let policy = policy.with_revoked(&revoked).expect("a policy");
    for (name, expected) in [
        (
            "api.a.com",
            Interception::Terminate(InterceptReason::Secrets),
        ),
        (
            "api.b.com",
            Interception::Splice(InterceptReason::Passthrough),
        ),
    ] {
        let name = HostName::parse(name).expect("a name");
        assert_eq!(policy.intercept().decide(&name, 443), expected);
    }
    assert!(policy.secrets()[0].require);
    let list = compile(json!({"version": 1, "allow_net": ["api.c.com"]})).expect("a policy");
    let list = list.with_revoked(&revoked).expect("a policy");
    assert_eq!(list.warnings(), []);
}

#[test]
fn problems_are_told_together_and_bounded() {
    let entries: Vec<String> = (0..100).map(|index| format!("a{index} b")).collect();
    let error = compile(json!({"version": 9, "allow_net": entries})).expect_err("problems");
    assert_eq!(error.problems.len(), PROBLEMS_MAX);
    assert_eq!(
        error.problems.first().map(|problem| problem.at.as_str()),
        Some("version")
    );
    let hostile = "x\u{202e}\n\"".repeat(200);
    let error = compile(json!({"version": 1, "allow_net": [hostile]}))
        .expect_err("a problem")
        .to_string();
    assert!(
        !error.contains('\n') && !error.contains('\u{202e}') && error.len() < 1000,
        "{error}"
    );
}

#[test]
fn a_secrets_host_without_a_port_means_https_only() {
    let policy = compile(json!({
        "version": 1,
        "secrets": {
            "A": {"hosts": ["api.a.com", "*.b.com"]},
            "B": {"hosts": ["API.a.com:8443"], "in": ["json", "header", "json"]},
        },
    }))
    .expect("a policy");
    for (host, port, expected) in [
        ("api.a.com", 443, &["A"][..]),
        ("api.a.com", 8443, &["B"]),
        ("api.a.com", 80, &[]),
        ("x.b.com", 443, &["A"]),
        ("b.com", 443, &[]),
        ("x.b.com", 80, &[]),
    ] {
        let name = HostName::parse(host).expect("a name");
        let names: Vec<&str> = policy
            .secrets_for(&name, port)
            .map(|secret| secret.name.as_str())
            .collect();
        assert_eq!(names, expected, "{host}:{port}");
        let terminated = matches!(
            policy.intercept().decide(&name, port),
            Interception::Terminate(_)
        );
        assert_eq!(terminated, !expected.is_empty(), "{host}:{port}");
    }
    let slots: Vec<&[Slot]> = policy
        .secrets()
        .iter()
        .map(|secret| secret.slots.as_slice())
        .collect();
    assert_eq!(slots, [&[Slot::Header][..], &[Slot::Header, Slot::Json]]);
}

#[test]
fn what_can_never_apply_is_a_warning() {
    let policy = compile(json!({
        "version": 1, "generation": 7, "allow_net": ["a.com", "*.b.com:443", "10.0.0.0/8:5432"],
        "secrets": {"K": {"hosts": ["a.com", "x.b.com", "c.com"]}},
        "net": {"rules": [{"id": "r", "host": ["a.com:1", "x.b.com:80", "10.1.1.1"]}]}
    }))
    .expect("a policy");
    let warnings: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("secret `K`") && warnings[0].contains("`c.com:443`"));
    assert!(warnings[1].contains("rule `r`") && warnings[1].contains("`x.b.com:80`"));
    assert_eq!(policy.generation(), 7);
    let address = Target::Address("10.1.1.1".parse().expect("an address"));
    assert!(policy.requests().applies_to(address, 5432));
    assert!(
        policy
            .network()
            .decide_address("10.1.1.1".parse().expect("an address"), 5432)
            .is_allowed()
    );
}
