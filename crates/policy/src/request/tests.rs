//! Request rules as a whole, by the ids of the attacks they decide.

use serde_json::{Value, json};

use super::*;
use crate::{
    document::{NetDocument, PolicyDocument},
    host::HostName,
    operator::OperatorRules,
    policy::Policy,
};

const NOW: Duration = Duration::from_secs(1000);

/// A request, as short as a table wants it.
#[derive(Clone, Copy)]
struct Sent<'a> {
    host: &'a str,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    headers: &'a [(&'a str, &'a [u8])],
    body: Option<&'a [u8]>,
}

impl Sent<'_> {
    const GET: Self = Self {
        host: "api.test",
        method: "GET",
        path: "/",
        query: None,
        headers: &[],
        body: None,
    };

    fn head<T>(&self, read: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let name = HostName::parse(self.host).expect("a name");
        read(&RequestHead {
            target: Target::Name(&name),
            port: 443,
            method: self.method,
            path: self.path,
            query: self.query,
            headers: self.headers,
            has_body: self.body.is_some(),
            content_length: self.body.map(|body| body.len() as u64),
        })
    }

    fn decide(&self, policy: &Policy, limits: &mut RateLimits, now: Duration) -> RequestDecision {
        let rules = policy.requests();
        self.head(|head| match rules.decide_head(head, limits, now) {
            Staged::Decided(decision) => decision,
            Staged::NeedBody { cap_bytes } => {
                let body = self.body.expect("a body is asked for where there is one");
                let body = if body.len() as u64 > cap_bytes {
                    Body::OverCap
                } else {
                    Body::Complete(body)
                };
                rules.decide_body(head, body, limits, now)
            }
        })
    }
}

fn policy(net: Value) -> Policy {
    let net: NetDocument = serde_json::from_value(net).expect("a document");
    let document = PolicyDocument {
        net,
        ..PolicyDocument::unrestricted()
    };
    let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
    Policy::compile(&document, &OperatorRules::closed(), &labels)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn check(policy: &Policy, sent: Sent<'_>, rule: &str, reason: Reason) -> RequestDecision {
    let decision = sent.decide(policy, &mut RateLimits::default(), NOW);
    let what = format!(
        "{} {} {:?} {:?}",
        sent.method,
        sent.path,
        sent.query,
        sent.body.map(String::from_utf8_lossy)
    );
    assert_eq!(decision.decision.reason, reason, "{what}");
    assert_eq!(decision.decision.rule.to_string(), rule, "{what}");
    decision
}

fn get(path: &str) -> Sent<'_> {
    Sent { path, ..Sent::GET }
}

const JSON: &[(&str, &[u8])] = &[("content-type", b"application/json")];

fn post(body: &[u8]) -> Sent<'_> {
    Sent {
        method: "POST",
        path: "/v1/chat",
        headers: JSON,
        body: Some(body),
        ..Sent::GET
    }
}

#[test]
fn deny_goes_before_allow_and_silence_is_denial() {
    let policy = policy(json!({"rules": [
        {"id": "read", "host": "api.test", "method": ["GET", "HEAD"], "path": "/repos/acme/**"},
        {"id": "secret", "host": "api.test", "action": "deny", "path": "/repos/acme/secret/**", "guidance": "Ask Kim."},
        {"id": "all", "host": "*.open.test", "action": "deny", "path": "/admin/**"},
    ]}));
    for (sent, rule, reason) in [
        (get("/repos/acme/x"), "rule:read", Reason::RuleAllows),
        (
            get("/repos/acme/secret/x"),
            "rule:secret",
            Reason::RuleDenies,
        ),
        (get("/repos/other"), "default", Reason::NoRuleAllows),
        (
            Sent {
                method: "POST",
                ..get("/repos/acme/x")
            },
            "default",
            Reason::NoRuleAllows,
        ),
        (
            Sent {
                method: "get",
                ..get("/repos/acme/x")
            },
            "default",
            Reason::NoRuleAllows,
        ),
        (
            Sent {
                host: "other.test",
                ..get("/x/../y")
            },
            "default",
            Reason::NoRules,
        ),
        (
            Sent {
                host: "a.open.test",
                ..get("/x")
            },
            "default",
            Reason::NoRuleDenies,
        ),
        (
            Sent {
                host: "a.open.test",
                ..get("/x/../admin/y")
            },
            "rule:all",
            Reason::RuleDenies,
        ),
    ] {
        let decision = check(&policy, sent, rule, reason);
        assert_eq!(decision.proceeds(), decision.decision.is_allowed());
        assert_eq!(decision.guidance.is_some(), rule == "rule:secret");
    }
}

/// HTTP-16: what is matched is what is sent.
#[test]
fn http_16_what_is_matched_is_what_is_sent() {
    let rules = json!([
        {"id": "pub", "host": "api.test", "path": "/pub/**"},
        {"id": "keys", "host": "api.test", "path": "/keys/*", "encoded_slash": true},
    ]);
    let lenient = policy(json!({"rules": rules}));
    for (raw, rule, reason, sent) in [
        ("/pub/a", "rule:pub", Reason::RuleAllows, Some("/pub/a")),
        (
            "/pub//%61/./b",
            "rule:pub",
            Reason::RuleAllows,
            Some("/pub/a/b"),
        ),
        (
            "/x/../pub/a",
            "rule:pub",
            Reason::RuleAllows,
            Some("/pub/a"),
        ),
        (
            "/pub/../admin",
            "default",
            Reason::NoRuleAllows,
            Some("/admin"),
        ),
        (
            "/pub/%2e%2e/admin",
            "default",
            Reason::NoRuleAllows,
            Some("/admin"),
        ),
        ("/pub/..;/admin", "default", Reason::PathRefused, None),
        (
            "/pub/%252e%252e/admin",
            "default",
            Reason::PathRefused,
            None,
        ),
        ("/pub\\..\\admin", "default", Reason::PathRefused, None),
        ("/pub/..%2fadmin", "default", Reason::PathRefused, None),
        (
            "/pub/a%2fb",
            "default",
            Reason::RuleUnknown,
            Some("/pub/a%2Fb"),
        ),
        (
            "/keys/a%2fb",
            "rule:keys",
            Reason::RuleAllows,
            Some("/keys/a%2Fb"),
        ),
    ] {
        let decision = check(&lenient, get(raw), rule, reason);
        assert_eq!(decision.path.as_deref(), sent, "{raw}");
    }
    let other = check(
        &lenient,
        Sent {
            host: "b.test",
            ..get("/a/../b")
        },
        "default",
        Reason::NoRules,
    );
    assert_eq!(other.path, None);
    let strict = policy(json!({"rules": rules, "path": "strict"}));
    check(&strict, get("/pub/a"), "rule:pub", Reason::RuleAllows);
    check(&strict, get("/pub//a"), "default", Reason::PathNotCanonical);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn http_17_the_effective_method_decides() {
    let policy = policy(json!({"rules": [
        {"id": "write", "host": "api.test", "method": ["GET", "POST"]},
        {"id": "no-delete", "host": "api.test", "action": "deny", "method": "DELETE"},
        {"id": "read", "host": "ro.test", "method": "GET"},
    ]}));
    let sent = |host, method, query, headers| Sent {
        host,
        method,
        query,
        headers,
        ..Sent::GET
    };
    for (sent, rule, reason) in [
        (
            sent("api.test", "POST", None, &[][..]),
            "rule:write",
            Reason::RuleAllows,
        ),
        (
            sent(
                "api.test",
                "POST",
                None,
                &[("X-HTTP-Method-Override", b"GET")],
            ),
            "rule:write",
            Reason::RuleAllows,
        ),
        (
            sent(
                "api.test",
                "POST",
                None,
                &[("X-HTTP-Method-Override", b"delete")],
            ),
            "rule:no-delete",
            Reason::RuleDenies,
        ),
        (
            sent("api.test", "delete", None, &[]),
            "rule:no-delete",
            Reason::RuleDenies,
        ),
        (
            sent("api.test", "POST", Some("_method=DELETE"), &[]),
            "rule:no-delete",
            Reason::RuleDenies,
        ),
        (
            sent("api.test", "POST", Some("x=1;_method=DELETE"), &[]),
            "rule:no-delete",
            Reason::RuleDenies,
        ),
        (
            sent("api.test", "POST", None, &[("X-HTTP-Method", b"PATCH")]),
            "default",
            Reason::NoRuleAllows,
        ),
        (
            sent("ro.test", "GET", Some("a=1;b"), &[]),
            "rule:read",
            Reason::RuleAllows,
        ),
        (
            sent("ro.test", "GET", Some("a=%zz"), &[]),
            "default",
            Reason::RuleUnknown,
        ),
        (
            sent("ro.test", "GET", None, &[]),
            "rule:read",
            Reason::RuleAllows,
        ),
        (
            sent("ro.test", "GET", None, &[("x-method-override", b"PUT")]),
            "default",
            Reason::NoRuleAllows,
        ),
        (
            sent("ro.test", "GET", None, &[("x-method-override", b"\xff")]),
            "default",
            Reason::RuleUnknown,
        ),
    ] {
        check(&policy, sent, rule, reason);
    }
}

#[test]
fn query_headers_and_types_are_conditions() {
    let policy = policy(json!({"rules": [{
        "id": "r", "host": "api.test", "content_type": ["application/json", "image/*"],
        "query": {"beta": ["1", "2"], "debug": false}, "headers": {"X-Kind": "a", "accept": true}
    }]}));
    let kind: (&str, &[u8]) = ("x-kind", b"a");
    let accept: (&str, &[u8]) = ("Accept", b"*/*");
    let json: (&str, &[u8]) = ("content-type", b"application/json; charset=utf-8");
    for (query, headers, reason) in [
        ("beta=1", &[kind, accept, json][..], Reason::RuleAllows),
        (
            "beta=1",
            &[kind, accept, ("content-type", b"IMAGE/png")],
            Reason::RuleAllows,
        ),
        ("beta=1&beta=2", &[kind, accept, json], Reason::RuleAllows),
        ("beta=1&beta=3", &[kind, accept, json], Reason::NoRuleAllows),
        ("", &[kind, accept, json], Reason::NoRuleAllows),
        ("beta=1&debug", &[kind, accept, json], Reason::NoRuleAllows),
        (
            "beta=1&%64ebug=1",
            &[kind, accept, json],
            Reason::NoRuleAllows,
        ),
        ("beta=1;debug", &[kind, accept, json], Reason::RuleUnknown),
        ("beta=1", &[accept, json], Reason::NoRuleAllows),
        (
            "beta=1",
            &[kind, ("X-KIND", b"b"), accept, json],
            Reason::NoRuleAllows,
        ),
        (
            "beta=1",
            &[("x-kind", b"\xff"), accept, json],
            Reason::RuleUnknown,
        ),
        ("beta=1", &[kind, json], Reason::NoRuleAllows),
        ("beta=1", &[kind, accept], Reason::NoRuleAllows),
        ("beta=1", &[kind, accept, json, json], Reason::RuleUnknown),
    ] {
        let sent = Sent {
            query: Some(query),
            headers,
            ..Sent::GET
        };
        let rule = if reason == Reason::RuleAllows {
            "rule:r"
        } else {
            "default"
        };
        check(&policy, sent, rule, reason);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn http_20_bodies_that_cannot_be_told_are_denied() {
    let policy = policy(json!({"inspect_body_bytes": 100, "rules": [
        {"id": "chat", "host": "api.test", "method": "POST",
         "json": {"/model": {"in": ["gpt-4", "gpt-5"]}, "/max_tokens": {"min": 1, "max": 4096}, "/tools": {"present": false}}},
        {"id": "no-raw", "host": "api.test", "action": "deny", "method": "POST", "json": {"/raw": {"equals": true}}},
    ]}));
    let long = format!(
        r#"{{"model":"gpt-4","max_tokens":1,"x":"{}"}}"#,
        "a".repeat(100)
    );
    for (body, rule, reason) in [
        (
            &br#"{"model":"gpt-4","max_tokens":4096}"#[..],
            "rule:chat",
            Reason::RuleAllows,
        ),
        (
            br#"{"model":"gpt-4","max_tokens":1.0}"#,
            "rule:chat",
            Reason::RuleAllows,
        ),
        (
            br#"{"model":"gpt-4","max_tokens":4097}"#,
            "default",
            Reason::NoRuleAllows,
        ),
        (
            br#"{"model":"gpt-4","max_tokens":"1"}"#,
            "default",
            Reason::NoRuleAllows,
        ),
        (
            br#"{"model":"evil","max_tokens":1}"#,
            "default",
            Reason::NoRuleAllows,
        ),
        (br#"{"max_tokens":1}"#, "default", Reason::NoRuleAllows),
        (
            br#"{"model":"gpt-4","max_tokens":1,"tools":[]}"#,
            "default",
            Reason::NoRuleAllows,
        ),
        (
            br#"{"Model":"gpt-4","max_tokens":1}"#,
            "default",
            Reason::RuleUnknown,
        ),
        (
            br#"{"model":"gpt-4","max_tokens":1,"raw":true}"#,
            "rule:no-raw",
            Reason::RuleDenies,
        ),
        (
            br#"{"model":"gpt-4","max_tokens":1,"RAW":true}"#,
            "rule:no-raw",
            Reason::RuleUnknown,
        ),
        (
            br#"{"model":"gpt-4","model":"evil","max_tokens":1}"#,
            "rule:no-raw",
            Reason::BodyUninspectable,
        ),
        (b"\xef\xbb\xbf{}", "rule:no-raw", Reason::BodyUninspectable),
        (b"model=gpt-4", "rule:no-raw", Reason::BodyUninspectable),
        (long.as_bytes(), "rule:no-raw", Reason::BodyUninspectable),
        (b"", "default", Reason::NoRuleAllows),
    ] {
        check(&policy, post(body), rule, reason);
    }
    let form = Sent {
        headers: &[("content-type", b"application/x-www-form-urlencoded")],
        ..post(b"{}")
    };
    check(&policy, form, "rule:no-raw", Reason::RuleUnknown);
    let untyped = Sent {
        headers: &[],
        ..post(b"{}")
    };
    check(&policy, untyped, "rule:no-raw", Reason::RuleUnknown);
    post(b"{}").head(|head| {
        let decision =
            policy
                .requests()
                .decide_body(head, Body::Undecodable, &mut RateLimits::default(), NOW);
        assert_eq!(decision.decision.reason, Reason::BodyUninspectable);
    });
}

#[test]
fn the_body_is_asked_for_only_when_it_decides() {
    let policy = policy(json!({"inspect_body_bytes": 77, "rules": [
        {"id": "any", "host": "api.test", "path": "/free"},
        {"id": "json", "host": "api.test", "path": "/v1/**", "json": {"/a": {"equals": 1}}},
        {"id": "when", "host": "api.test", "path": "/w", "when": "json.a == 1"},
        {"id": "head", "host": "api.test", "path": "/h", "when": "request.method == 'POST'"},
    ]}));
    for (path, needed) in [
        ("/free", false),
        ("/v1/x", true),
        ("/w", true),
        ("/h", false),
        ("/x", false),
    ] {
        let staged = Sent {
            path,
            ..post(b"{}")
        }
        .head(|head| {
            policy
                .requests()
                .decide_head(head, &mut RateLimits::default(), NOW)
        });
        assert_eq!(
            staged == Staged::NeedBody { cap_bytes: 77 },
            needed,
            "{path}"
        );
    }
}

#[test]
fn expressions_decide_and_what_they_cannot_tell_is_denied() {
    let policy = policy(json!({"rules": [
        {"id": "small", "host": "api.test", "when": "json.max_tokens <= 10 && labels.team == 'red'"},
        {"id": "no-evil", "host": "api.test", "action": "deny", "method": "POST", "when": "json.model == 'evil'"},
    ]}));
    for (body, rule, reason) in [
        (
            &br#"{"model":"x","max_tokens":10}"#[..],
            "rule:small",
            Reason::RuleAllows,
        ),
        (
            br#"{"model":"x","max_tokens":11}"#,
            "default",
            Reason::NoRuleAllows,
        ),
        (br#"{"model":"x"}"#, "default", Reason::RuleUnknown),
        (
            br#"{"model":"evil","max_tokens":1}"#,
            "rule:no-evil",
            Reason::RuleDenies,
        ),
        (br#"{"max_tokens":1}"#, "rule:no-evil", Reason::RuleUnknown),
    ] {
        check(&policy, post(body), rule, reason);
    }
    let overridden = Sent {
        headers: &[
            ("content-type", b"application/json"),
            ("x-http-method", b"PUT"),
        ],
        ..post(br#"{"model":"x","max_tokens":1}"#)
    };
    check(&policy, overridden, "rule:small", Reason::RuleAllows);
}

#[test]
fn an_expression_over_the_request_does_not_trust_one_of_two_methods() {
    let policy = policy(json!({"rules": [
        {"id": "get", "host": "api.test", "when": "request.method == 'GET'"},
    ]}));
    check(&policy, Sent::GET, "rule:get", Reason::RuleAllows);
    let overridden = Sent {
        headers: &[("x-http-method", b"DELETE")],
        ..Sent::GET
    };
    check(&policy, overridden, "default", Reason::RuleUnknown);
}

#[test]
fn sizes_are_conditions_of_rules_that_allow() {
    let policy = policy(json!({"rules": [
        {"id": "small", "host": "api.test", "max_body_bytes": 4},
        {"id": "large", "host": "api.test", "path": "/large", "max_body_bytes": 8},
    ]}));
    let sent = |path, body| Sent { path, ..post(body) };
    let small = check(
        &policy,
        sent("/", b"1234"),
        "rule:small",
        Reason::RuleAllows,
    );
    assert_eq!(small.body_limit_bytes, Some(4));
    check(
        &policy,
        sent("/", b"12345"),
        "default",
        Reason::BodyTooLarge,
    );
    check(
        &policy,
        sent("/large", b"12345"),
        "rule:large",
        Reason::RuleAllows,
    );
    check(&policy, Sent::GET, "rule:small", Reason::RuleAllows);
    let unknown_length = sent("/", b"12345").head(|head| {
        let head = RequestHead {
            content_length: None,
            ..*head
        };
        policy
            .requests()
            .decide_head(&head, &mut RateLimits::default(), NOW)
    });
    let Staged::Decided(decision) = unknown_length else {
        panic!("{unknown_length:?}")
    };
    assert_eq!(decision.body_limit_bytes, Some(4));
}

/// ADM-04: rates are used up by what they allowed only.
#[test]
fn adm_04_rates_are_used_up_by_what_they_allowed_only() {
    let policy = policy(json!({"rules": [
        {"id": "no", "host": "api.test", "action": "deny", "path": "/no"},
        {"id": "slow", "host": "api.test", "path": "/*", "rate": "2/min"},
        {"id": "spare", "host": "api.test", "path": "/spare", "rate": "1/h"},
    ]}));
    let mut limits = RateLimits::default();
    let mut decide = |path: &str, now| {
        let decision = get(path).decide(&policy, &mut limits, now).decision;
        format!("{} {}", decision.rule, decision.reason)
    };
    for (path, seconds, expected) in [
        ("/no", 0, "rule:no rule_denies"),
        ("/a", 0, "rule:slow rule_allows"),
        ("/a", 0, "rule:slow rule_allows"),
        ("/a", 0, "rule:slow rate_limited"),
        ("/spare", 0, "rule:spare rule_allows"),
        ("/spare", 0, "rule:slow rate_limited"),
        ("/a", 29, "rule:slow rate_limited"),
        ("/a", 30, "rule:slow rule_allows"),
        ("/a", 30, "rule:slow rate_limited"),
    ] {
        assert_eq!(
            decide(path, Duration::from_secs(seconds)),
            expected,
            "{path} at {seconds}"
        );
    }
    limits.retain(policy.requests());
    assert_eq!(limits.states.len(), 2);
}

#[test]
fn audit_records_and_lets_pass() {
    let rules = json!([
        {"id": "read", "host": "api.test", "method": "GET"},
        {"id": "trial", "host": "api.test", "action": "deny", "mode": "audit", "path": "/trial"},
    ]);
    let enforced = policy(json!({"rules": rules}));
    let decision = check(&enforced, get("/trial"), "rule:read", Reason::RuleAllows);
    assert_eq!(
        decision
            .audited
            .iter()
            .map(RuleId::as_str)
            .collect::<Vec<_>>(),
        ["trial"]
    );
    let audited = policy(json!({"rules": rules, "mode": "audit"}));
    let decision = check(
        &audited,
        Sent {
            method: "POST",
            ..Sent::GET
        },
        "default",
        Reason::NoRuleAllows,
    );
    assert!(!decision.enforced && decision.proceeds() && !decision.decision.is_allowed());
    let decision = check(&audited, get("/a;b"), "default", Reason::PathRefused);
    assert!(decision.proceeds() && decision.path.is_none());
}

/// TIM-02: an explanation names conditions and quotes nothing.
#[test]
fn tim_02_an_explanation_names_conditions_and_quotes_nothing() {
    let policy = policy(json!({"rules": [
        {"id": "no-evil", "host": "api.test", "action": "deny", "json": {"/model": {"equals": "evil"}}},
        {"id": "get", "host": "api.test", "method": "GET"},
        {"id": "when", "host": "api.test", "when": "json.missing == 'expected-value'"},
        {"id": "rated", "host": "api.test", "path": "/other", "rate": "1/h"},
        {"id": "other", "host": "other.test"},
    ]}));
    let sent = Sent {
        query: Some("q=canary"),
        path: "/canary",
        headers: &[
            ("content-type", b"application/json"),
            ("x-canary", b"canary"),
        ],
        ..post(br#"{"model":"canary"}"#)
    };
    let limits = RateLimits::default();
    let explain = |body| sent.head(|head| policy.requests().explain(head, body, &limits, NOW));
    let explanation = explain(Some(Body::Complete(br#"{"model":"canary"}"#)));
    let lines: Vec<String> = explanation
        .rules
        .iter()
        .map(|report| {
            let condition = report.condition.map_or("-", Condition::as_str);
            format!("{} {} {condition}", report.rule, report.outcome)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "no-evil not_matched json",
            "get not_matched method",
            "when unknown when",
            "rated not_matched path"
        ]
    );
    assert_eq!(explanation.outcome.decision.reason, Reason::RuleUnknown);
    let shown = serde_json::to_value(&explanation).expect("JSON");
    assert!(!shown.to_string().contains("canary") && !shown.to_string().contains("expected-value"));
    let without_body = explain(None);
    assert_eq!(
        without_body.rules.first().map(|report| report.outcome),
        Some("needs_body")
    );
    assert!(!without_body.outcome.decision.is_allowed());
}

#[test]
fn an_explanation_uses_nothing_up() {
    let policy = policy(json!({"rules": [{"id": "once", "host": "api.test", "rate": "1/h"}]}));
    let mut limits = RateLimits::default();
    for _ in 0..3 {
        let explanation =
            Sent::GET.head(|head| policy.requests().explain(head, None, &limits, NOW));
        assert!(explanation.outcome.proceeds());
    }
    assert!(Sent::GET.decide(&policy, &mut limits, NOW).proceeds());
    let explanation = Sent::GET.head(|head| policy.requests().explain(head, None, &limits, NOW));
    assert_eq!(explanation.outcome.decision.reason, Reason::RateLimited);
    assert_eq!(
        explanation.rules.first().map(|report| report.within_rate),
        Some(false)
    );
}
