//! What can be asked of a new network.

use serde_json::json;
use tombolo_api::config::CreateConfig;

use super::*;

/// What a client's JSON asks for.
fn request(asked: &Value) -> (NetworkRequest, BTreeMap<String, String>) {
    use base64::Engine as _;
    let header = base64::engine::general_purpose::STANDARD.encode(asked.to_string());
    let config = CreateConfig::decode_header(header.as_bytes()).unwrap();
    let request = NetworkRequest {
        allow_net: config.allow_net,
        secrets: config.secrets,
        policy: config.egress_policy,
    };
    (request, config.env)
}

fn planned(asked: &Value) -> Result<(Value, BTreeMap<String, String>), String> {
    let (request, mut env) = request(asked);
    let plan = request.plan(&mut env).map_err(|error| error.to_string())?;
    for secret in &plan.secrets {
        assert_eq!(env[secret.name.as_str()], secret.placeholder.to_string());
    }
    Ok((serde_json::to_value(plan.document).unwrap(), env))
}

#[test]
fn what_is_asked_becomes_one_document() {
    let secret = |hosts| json!({ "hosts": [hosts], "require": false, "on_ineligible": "forward" });
    // What a client asks, its part of the document, and the names in the environment.
    let cases = [
        (json!({}), json!({}), vec![]),
        (
            json!({ "allow_net": [] }),
            json!({ "allow_net": [] }),
            vec![],
        ),
        (
            json!({ "allow_net": ["example.com", "*.example.org:443", "10.0.0.0/8"] }),
            json!({ "allow_net": ["example.com", "*.example.org:443", "10.0.0.0/8"] }),
            vec![],
        ),
        (
            json!({ "env": { "A": "b" }, "secrets": { "K": { "hosts": ["a.com"], "value": "v" } } }),
            json!({ "secrets": { "K": secret("a.com") } }),
            vec!["A", "K"],
        ),
        (
            json!({
                "allow_net": ["b.com"],
                "secrets": { "K": { "value": "v" }, "L": { "hosts": ["c.com"], "value": "v" } },
                "egress_policy": {
                    "version": 1,
                    "secrets": { "K": { "hosts": ["a.com"], "in": ["query"], "require": true } },
                    "net": { "rules": [{ "id": "r", "host": "b.com", "method": "GET" }] },
                },
            }),
            json!({
                "allow_net": ["b.com"],
                "secrets": {
                    "K": {
                        "hosts": ["a.com"], "in": ["query"], "require": true,
                        "on_ineligible": "forward",
                    },
                    "L": secret("c.com"),
                },
            }),
            vec!["K", "L"],
        ),
        (
            json!({ "egress_policy": { "version": 1, "allow_net": ["d.com"] } }),
            json!({ "allow_net": ["d.com"] }),
            vec![],
        ),
    ];
    for (asked, expected, names) in cases {
        let (document, env) = planned(&asked).unwrap();
        assert_eq!(document["version"], 1);
        assert_eq!(document["generation"], 1);
        for key in ["allow_net", "secrets"] {
            assert_eq!(document.get(key), expected.get(key), "{asked}");
        }
        assert!(env.keys().eq(names), "{asked}: {env:?}");
    }
    let rule = json!({
        "egress_policy": { "version": 1, "net": { "rules": [{ "id": "r", "host": "b.com" }] } },
    });
    let (document, _) = planned(&rule).unwrap();
    assert_eq!(document["net"]["rules"][0]["id"], "r");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn everything_that_is_wrong_is_told_at_once_and_no_value() {
    // What a client asks, and parts of what it is told.
    let cases: [(Value, &[&str]); 12] = [
        (
            json!({ "allow_net": ["*", "127.0.0.1", "good.com"] }),
            &[
                "allow_net[0]: `*`",
                "allow_net[1]: `127.0.0.1` can never be reached",
            ],
        ),
        (
            json!({
                "allow_net": ["http://x"],
                "env": { "B": "x" },
                "secrets": {
                    "9": { "hosts": ["a.com"], "value": "hushhush" },
                    "A": { "hosts": [], "value": "hush\nhush" },
                    "B": { "hosts": ["10.0.0.1"], "value": "" },
                },
            }),
            &[
                "allow_net[0]: `http://x`",
                "secrets.9: `9` is not a name for a secret",
                "secrets.A.hosts: must not be empty",
                "secrets.A.value: the value of a secret has the control character 0x0a at byte 4",
                "secrets.B: `env` has a variable of that name",
                "secrets.B.hosts: a secret is for host names",
                "secrets.B.value: the value of a secret is empty",
            ],
        ),
        (
            json!({ "secrets": { "A": {
                "hosts": ["a.com"], "value": "xDENO_SECRET_PLACEHOLDER_hush",
            } } }),
            &["secrets.A.value: it contains a placeholder"],
        ),
        (
            json!({ "secrets": { "A": { "hosts": ["a.com"], "value": "h".repeat(65_537) } } }),
            &["secrets.A.value: the value of a secret has 65537 bytes; at most 65536"],
        ),
        (
            json!({ "egress_policy": { "version": 2 } }),
            &["version: version 2 of policies is not known"],
        ),
        (
            json!({ "egress_policy": { "version": 1, "generation": 3 } }),
            &["egress_policy.generation: the server counts"],
        ),
        (
            json!({ "egress_policy": { "version": 1, "net": { "rule": [] } } }),
            &["egress_policy at net.rule: unknown field `rule`"],
        ),
        (
            json!({ "egress_policy": { "version": 1, "secrets": { "A": "hushhush" } } }),
            &["egress_policy at secrets.A: not of the kind"],
        ),
        (
            json!({ "allow_net": [], "egress_policy": { "version": 1, "allow_net": [] } }),
            &["allow_net: `egress_policy` has one too"],
        ),
        (
            json!({
                "secrets": { "A": { "hosts": ["b.com"], "value": "hushhush" } },
                "egress_policy": { "version": 1, "secrets": {
                    "A": { "hosts": ["a.com"] },
                    "B": { "hosts": ["a.com"] },
                } },
            }),
            &[
                "egress_policy.secrets.B: it has no value",
                "secrets.A.hosts: `egress_policy` says where it may go",
            ],
        ),
        (
            json!({
                "secrets": { "A": { "value": "hushhush" } },
                "egress_policy": { "version": 1, "secrets": { "A": {
                    "hosts": ["a.com"], "in": ["binary"], "placeholder": { "same_length": true },
                } } },
            }),
            &[
                "secrets.A.in: `binary` is not built yet",
                "secrets.A.placeholder: placeholders have one form",
            ],
        ),
        (
            json!({
                "secrets": { "A": { "hosts": ["a.com"], "value": "hushhush" } },
                "egress_policy": { "version": 1, "net": { "passthrough": ["a.com"] } },
            }),
            &["net.passthrough[0]: `a.com` is passed through unread, so secret `A`"],
        ),
    ];
    for (asked, expected) in cases {
        let said = planned(&asked).unwrap_err();
        for part in expected {
            assert!(said.contains(part), "{asked}\n {said}\n lacks {part}");
        }
        assert!(!said.contains("hush"), "{said}");
    }
}

#[test]
fn numbers_are_bounded() {
    let many = |count: usize| {
        let secrets = (0..count).map(|n| {
            let spec = json!({ "hosts": ["a.com"], "value": "v" });
            (format!("S{n}"), spec)
        });
        json!({ "secrets": secrets.collect::<serde_json::Map<_, _>>() })
    };
    assert!(planned(&many(tombolo_policy::SECRETS_MAX)).is_ok());
    let said = planned(&many(tombolo_policy::SECRETS_MAX + 1)).unwrap_err();
    assert!(said.contains("secrets: there are more than 128"), "{said}");
    let hosts = vec!["a b"; 100];
    let said = planned(&json!({ "allow_net": hosts })).unwrap_err();
    assert!(said.len() < 16 * 1024, "{}", said.len());
    let empty = vec![json!({ "hosts": [], "value": "" }); 60];
    let empty = (0..).map(|n| format!("S{n}")).zip(empty);
    let asked = json!({ "secrets": empty.collect::<serde_json::Map<_, _>>() });
    let said = planned(&asked).unwrap_err();
    assert!(said.ends_with("more"), "{said}");
    assert!(said.len() < 16 * 1024, "{}", said.len());
}

#[test]
fn placeholders_are_as_the_sdks_know_them_and_never_twice() {
    let asked = json!({ "secrets": { "K": { "hosts": ["a.com"], "value": "v" } } });
    let [one, other] = [(); 2].map(|()| planned(&asked).unwrap().1.remove("K").unwrap());
    let digits = one.strip_prefix("DENO_SECRET_PLACEHOLDER_").unwrap();
    assert_eq!(digits.len(), 64);
    assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(one, other);
}
