//! Substitution in heads, queries, paths and messages, named after the cases of
//! the attack list.
#![expect(
    clippy::format_collect,
    reason = "hexadecimal texts are short and made once"
)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::*;
use crate::fixture::{HOST, VALUE, destination, ph, placeholder, request, request_to, rule, table};

fn header(request: &mut RequestSubstitution, name: &str, value: &str) -> Option<String> {
    let replaced = request.header(name, value.as_bytes()).unwrap();
    replaced.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn substituted(number: u8, slot: Slot, count: u32) -> Finding {
    Finding::Substituted {
        secret: rule(number, "x").name,
        slot,
        count,
    }
}

fn ineligible(number: u8, slot: Slot, reason: IneligibleReason) -> Finding {
    Finding::Ineligible {
        secret: rule(number, "x").name,
        slot,
        reason,
        count: 1,
    }
}

fn foreign(slot: Slot) -> Finding {
    Finding::Foreign { slot, count: 1 }
}

fn assert_found(request: &RequestSubstitution, expected: &[Finding]) {
    let found: Vec<Finding> = request.findings().iter().cloned().collect();
    assert_eq!(found, expected);
}

/// SUB-01: a header gets the value.
#[test]
fn sub_01_a_header_gets_the_value() {
    for (name, before, after) in [
        ("Authorization", "Bearer {}", "Bearer {}"),
        ("x-api-key", "{}", "{}"),
        ("Sec-WebSocket-Protocol", "bearer, {}", "bearer, {}"),
        ("x-two", "{} {}", "{} {}"),
        ("x-inside", "a{}b", "a{}b"),
        ("authorization", "Token token={}", "Token token={}"),
    ] {
        let mut request = request([rule(1, VALUE)]);
        let found = header(&mut request, name, &before.replace("{}", &ph(1)));
        assert_eq!(found, Some(after.replace("{}", VALUE)), "{name}");
    }
}

/// SUB-01: metadata of gRPC is base64.
#[test]
fn sub_01_metadata_of_grpc_is_base64() {
    let mut request = request([rule(1, VALUE)]);
    let sent = STANDARD_NO_PAD.encode(ph(1));
    let found = header(&mut request, "x-token-bin", &sent);
    assert_eq!(found, Some(STANDARD_NO_PAD.encode(VALUE)));
    assert_eq!(header(&mut request, "x-token-bin", "?"), None);
    assert_eq!(header(&mut request, "x-token-bin", "AAAA"), None);
}

/// SUB-02: basic in every spelling.
#[test]
fn sub_02_basic_in_every_spelling() {
    let (one, two) = ("se:cret?>~one", "tw\u{f6}");
    let text = |template: &str, one: &str, two: &str| template.replace('1', one).replace('2', two);
    for template in ["user:1", "user:12", "2:1", "2:", ":1", "1", "user:x1y"] {
        if template == "1" {
            continue;
        }
        let plain = text(template, &ph(1), &ph(2));
        let expected = format!("Basic {}", STANDARD.encode(text(template, one, two)));
        let encoded = [
            STANDARD.encode(&plain),
            STANDARD_NO_PAD.encode(&plain),
            URL_SAFE.encode(&plain),
            URL_SAFE_NO_PAD.encode(&plain),
            format!("{}==", STANDARD_NO_PAD.encode(&plain)),
        ];
        for token in &encoded {
            for scheme in ["Basic", "basic", "BASIC", " Basic ", "Basic \t"] {
                let mut request = request([rule(1, one), rule(2, two)]);
                let value = format!("{scheme} {token}");
                let found = header(&mut request, "Authorization", &value);
                assert_eq!(found.as_ref(), Some(&expected), "{template} {value}");
                assert_eq!(request.take_composites().len(), 1);
            }
        }
    }
}

/// SUB-02: what is not quite basic.
#[test]
fn sub_02_what_is_not_quite_basic() {
    // Bits behind the last byte that are not zero: lenient servers ignore them.
    let plain = format!("u:{}a", ph(1));
    let canonical = STANDARD_NO_PAD.encode(&plain);
    assert_eq!(canonical.len() % 4, 2, "the case needs spare bits");
    let last = canonical.chars().last().unwrap();
    let spare = format!(
        "{}{}",
        &canonical[..canonical.len() - 1],
        char::from(last as u8 + 1)
    );
    let mut request = request([rule(1, VALUE)]);
    let found = header(&mut request, "authorization", &format!("Basic {spare}"));
    let expected = format!("Basic {}", STANDARD.encode(format!("u:{VALUE}a")));
    assert_eq!(found, Some(expected));
    for token in ["", "?", "AAAAA", "AA AA", "dXNlcjpwYXNz"] {
        let value = format!("Basic {token}");
        assert_eq!(
            header(&mut request, "authorization", &value),
            None,
            "{token}"
        );
    }
    // In another header it is a text like any other.
    let token = format!("Basic {canonical}");
    assert_eq!(header(&mut request, "x-other", &token), None);
}

/// SUB-02: a colon cannot end the user early.
#[test]
fn sub_02_a_colon_cannot_end_the_user_early() {
    let mut request = request([rule(1, "a:b")]);
    let as_user = format!("Basic {}", STANDARD.encode(format!("{}:x", ph(1))));
    assert_eq!(
        request.header("authorization", as_user.as_bytes()),
        Err(Refusal::ColonInUser {
            secret: rule(1, "x").name
        })
    );
    let as_password = format!("Basic {}", STANDARD.encode(format!("x:{}", ph(1))));
    assert!(header(&mut request, "authorization", &as_password).is_some());
}

/// SUB-03, SUB-18, SUB-24: elsewhere a placeholder stays what it is.
#[test]
fn sub_03_elsewhere_a_placeholder_stays_what_it_is() {
    let elsewhere = SecretRule {
        hosts: vec!["other.example.com".parse().unwrap()],
        ..rule(2, VALUE)
    };
    let rules = || [rule(1, VALUE), elsewhere.clone()];
    let basic = |number| format!("Basic {}", STANDARD.encode(format!("u:{}", ph(number))));
    let host = IneligibleReason::Host;
    for (host_name, name, value, expected) in [
        (
            "evil.test",
            "x-key",
            ph(1),
            ineligible(1, Slot::Header, host),
        ),
        (
            "evil.test",
            "authorization",
            basic(1),
            ineligible(1, Slot::Basic, host),
        ),
        (HOST, "x-key", ph(2), ineligible(2, Slot::Header, host)),
        (HOST, "x-key", ph(3), foreign(Slot::Header)),
        (HOST, "authorization", basic(3), foreign(Slot::Basic)),
    ] {
        let mut request = request_to(host_name, rules());
        assert_eq!(header(&mut request, name, &value), None);
        assert!(request.take_composites().is_empty());
        assert_found(&request, &[expected]);
    }
    // Own, foreign and truncated ones beside each other.
    let mut request = request(rules());
    let cut = &ph(1)[..80];
    let value = format!("{} {} {cut} {} {}", ph(3), ph(1), ph(2), ph(1));
    let expected = format!("{} {VALUE} {cut} {} {VALUE}", ph(3), ph(2));
    assert_eq!(header(&mut request, "x-key", &value), Some(expected));
    assert_found(
        &request,
        &[
            foreign(Slot::Header),
            substituted(1, Slot::Header, 2),
            ineligible(2, Slot::Header, host),
        ],
    );
}

/// SUB-04: values of a query.
#[test]
fn sub_04_values_of_a_query() {
    let percent: String = ph(1).bytes().map(|byte| format!("%{byte:02x}")).collect();
    let first = format!("%44{}", &ph(1)[1..]);
    let value = "sk-canary%2F0123%2B456789%22%3Dabc";
    for (before, after) in [
        ("key=@", Some("key=#")),
        ("a=%2f+x&key=@&b=1&key=@&", Some("a=%2f+x&key=#&b=1&key=#&")),
        ("key=x%20@%zz%", Some("key=x%20#%zz%")),
        ("key=a=@", Some("key=a=#")),
        ("@=1", None),
        ("@", None),
        ("a&@&b", None),
        ("", None),
        ("key=%4g%g@", Some("key=%4g%g#")),
    ] {
        for spelling in [&ph(1), &percent, &first] {
            let mut request = request([rule(1, VALUE)]);
            let found = request.query(&before.replace('@', spelling));
            assert_eq!(
                found,
                after.map(|after| after.replace('#', value)),
                "{before}"
            );
        }
    }
    let off = SecretRule {
        slots: Slots::default(),
        ..rule(1, VALUE)
    };
    let mut request = request([off]);
    assert_eq!(request.query(&format!("key={}", ph(1))), None);
    assert_found(
        &request,
        &[ineligible(1, Slot::Query, IneligibleReason::Slot)],
    );
}

/// SUB-05: segments of a path.
#[test]
fn sub_05_segments_of_a_path() {
    let with = |value: &str, path: &str| {
        let mut request = request([rule(1, value)]);
        request.path(&path.replace('@', &ph(1)))
    };
    for (value, path, expected) in [
        ("tok", "/bot@/send", "/bottok/send"),
        ("a/b?c#d%e", "/bot@/send", "/bota%2Fb%3Fc%23d%25e/send"),
        ("../x", "/@/y", "/..%2Fx/y"),
        ("..", "/a@/y", "/a../y"),
    ] {
        assert_eq!(
            with(value, path),
            Ok(Some(expected.to_owned())),
            "{value} {path}"
        );
    }
    let refused = Err(Refusal::PathStructure {
        secret: rule(1, "x").name,
    });
    for (value, path) in [
        (".", "/@"),
        ("..", "/a/@/b"),
        (".", "/.@/"),
        (".", "/%2e@/"),
        (".", "@"),
    ] {
        assert_eq!(with(value, path), refused, "{value} {path}");
    }
    assert_eq!(with("v", "/plain/../x%2f"), Ok(None));
    let encoded = format!("/a%2F%44{}/b", &ph(1)[1..]);
    assert_eq!(with("v", &encoded), Ok(Some("/a%2Fv/b".to_owned())));
}

/// SUB-14: messages of a `WebSocket`.
#[test]
fn sub_14_messages_of_a_websocket() {
    let value = "a\"b";
    for (message, expected) in [
        ("@", Some("a\"b")),
        ("auth @ @", Some("auth a\"b a\"b")),
        ("{\"k\": \"@\"}", Some("{\"k\": \"a\\\"b\"}")),
        (
            " [\"\\u0044ENO\", \"@\"]",
            Some(" [\"\\u0044ENO\", \"a\\\"b\"]"),
        ),
        ("plain", None),
        ("", None),
    ] {
        let mut request = request([rule(1, value)]);
        let found = request.websocket_text(message.replace('@', &ph(1)).as_bytes());
        assert_eq!(
            found,
            Ok(expected.map(|text| text.as_bytes().to_vec())),
            "{message}"
        );
    }
    let mut request = request([rule(1, value)]);
    let long = vec![b'x'; WEBSOCKET_MESSAGE_LEN_MAX + 1];
    assert_eq!(request.websocket_text(&long[1..]), Ok(None));
    assert!(request.websocket_text(&long).is_err());
    let off = SecretRule {
        slots: Slots::default(),
        ..rule(1, VALUE)
    };
    let mut request = request_to(HOST, [off]);
    assert!(!request.wants_websocket());
    assert_eq!(request.websocket_text(ph(1).as_bytes()), Ok(None));
}

/// SUB-17: headers that are echoed logged or frame the message.
#[test]
fn sub_17_headers_that_are_echoed_logged_or_frame_the_message() {
    for name in [
        "User-Agent",
        "Referer",
        "Origin",
        "Via",
        "From",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Anything",
        "Accept",
        "Accept-Language",
        "Range",
        "If-Match",
        "TE",
        "traceparent",
        "tracestate",
        "baggage",
        "X-Request-Id",
        "Sec-Fetch-Site",
        "Sec-WebSocket-Key",
        "Host",
        "Content-Type",
        "Content-Length",
        "Content-Encoding",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "Expect",
        "Trailer",
    ] {
        let mut request = request([rule(1, VALUE)]);
        let value = format!("{} {}", ph(1), ph(9));
        assert_eq!(header(&mut request, name, &value), None, "{name}");
        let excluded = ineligible(1, Slot::Header, IneligibleReason::Header);
        assert_found(&request, &[excluded, foreign(Slot::Header)]);
    }
    let default = SecretRule {
        slots: Slots::default(),
        ..rule(1, VALUE)
    };
    let cookie = format!("session={}", ph(1));
    let mut off = request([default]);
    assert_eq!(header(&mut off, "Cookie", &cookie), None);
    assert_found(&off, &[ineligible(1, Slot::Cookie, IneligibleReason::Slot)]);
    let mut on = request([rule(1, "v")]);
    assert_eq!(header(&mut on, "Cookie", &cookie).unwrap(), "session=v");
}

/// SUB-21: what was written is not read again.
#[test]
fn sub_21_what_was_written_is_not_read_again() {
    // Two values that, beside what is around them, would spell a placeholder.
    let other = ph(2);
    let (start, end) = other.split_at(20);
    let mut request = request([rule(1, start), rule(2, "never")]);
    let found = header(&mut request, "x", &format!("{}{end}", ph(1)));
    assert_eq!(found, Some(ph(2)));
    assert_found(&request, &[substituted(1, Slot::Header, 1)]);
}

/// SUB-22: many secrets are each found.
#[test]
fn sub_22_many_secrets_are_each_found() {
    let rules: Vec<SecretRule> = (0..200).map(|n| rule(n, &format!("value-{n}"))).collect();
    let mut request = request(rules);
    let value: String = (0..200).map(ph).collect();
    let expected: String = (0..200).map(|n| format!("value-{n}")).collect();
    assert_eq!(header(&mut request, "x-all", &value), Some(expected));
    assert_eq!(request.findings().substituted(), 200);
}

/// SUB-24: almost a placeholder is a text.
#[test]
fn sub_24_almost_a_placeholder_is_a_text() {
    let good = ph(0xab);
    for text in [
        good.to_uppercase(),
        good.replace("ab", "AB"),
        good[..good.len() - 1].to_owned(),
        good.replace("DENO_", "DENO"),
        good.replace("ab", "a\u{431}"),
        good.to_lowercase(),
    ] {
        let mut request = request([rule(0xab, VALUE)]);
        assert_eq!(header(&mut request, "x", &text), None, "{text}");
        assert!(request.findings().is_empty(), "{text}");
    }
    // One beginning inside another: the whole one counts.
    for (text, expected) in [
        (
            format!("DENO_SECRET_PLACEHOL{good}"),
            "DENO_SECRET_PLACEHOLv",
        ),
        (
            format!("DENO_SECRET_PLACEHOLDE{}", &good[2..]),
            "DENO_SECRET_PLACEHOLv",
        ),
        (
            format!("DENO_SECRET_PLACEHOLDER_ab{good}"),
            "DENO_SECRET_PLACEHOLDER_abv",
        ),
        (format!("DD{good}ab"), "DDvab"),
    ] {
        let mut request = request([rule(0xab, "v")]);
        let found = header(&mut request, "x", &text).unwrap_or(text.clone());
        assert!(found.starts_with(expected), "{text}: {found}");
    }
}

fn required(number: u8, value: &str) -> SecretRule {
    SecretRule {
        requirement: Requirement::Required,
        ..rule(number, value)
    }
}

/// HTTP-21: only our credential may go there.
#[test]
fn http_21_only_our_credential_may_go_there() {
    let ours = format!("Bearer {}", ph(1));
    let basic = format!("Basic {}", STANDARD.encode(format!("u:{}", ph(1))));
    let mixed = format!("Bearer theirs {}", ph(1));
    let (missing, foreign) = (Err("credential_missing"), Err("foreign_credential"));
    let check = |headers: &[(&str, &str)], query: &str, expected: Result<(), &str>| {
        let mut request = request([required(1, VALUE)]);
        for (name, value) in headers {
            header(&mut request, name, value);
        }
        request.query(query);
        let found = request.check_required();
        let code = found.as_ref().map_err(Refusal::code).copied();
        assert_eq!(code, expected, "{headers:?} {query}");
    };
    check(&[("authorization", &ours)], "", Ok(()));
    check(&[("authorization", &basic)], "", Ok(()));
    check(&[("x-custom", &ours)], "", Ok(()));
    check(&[], &format!("key={}", ph(1)), Ok(()));
    check(
        &[("authorization", &ours), ("cookie", "a=b")],
        "x=y",
        Ok(()),
    );
    check(&[], "", missing);
    check(&[("user-agent", &ours)], "", missing);
    check(&[("authorization", "Bearer theirs")], "", foreign);
    check(
        &[("authorization", &ours), ("x-api-key", "theirs")],
        "",
        foreign,
    );
    check(
        &[("x-custom", &ours), ("Authorization", "Bearer theirs")],
        "",
        foreign,
    );
    check(&[("authorization", &mixed)], "", foreign);
    check(
        &[("authorization", &ours), ("authorization", "Bearer theirs")],
        "",
        foreign,
    );
    check(&[("authorization", &ours)], "key=theirs", foreign);
    check(
        &[("authorization", &format!("Bearer {}", ph(9)))],
        "",
        foreign,
    );
    // Elsewhere nothing is required.
    let mut request = request_to("other.test", [required(1, VALUE)]);
    header(&mut request, "authorization", "Bearer theirs");
    assert_eq!(request.check_required(), Ok(()));
}

#[test]
fn an_injected_header_needs_nothing_in_the_guest() {
    let injected = |injection| SecretRule {
        injection: Some(injection),
        slots: Slots::NONE,
        ..required(1, VALUE)
    };
    let bearer = injected(Injection::Header {
        name: "Authorization".to_owned(),
        template: "Bearer {}".to_owned(),
    });
    let basic = injected(Injection::Basic {
        user: "bot".to_owned(),
    });
    for (rule, expected) in [
        (bearer.clone(), format!("Bearer {VALUE}")),
        (
            basic,
            format!("Basic {}", STANDARD.encode(format!("bot:{VALUE}"))),
        ),
    ] {
        let mut request = request([rule]);
        assert_eq!(header(&mut request, "authorization", "Bearer theirs"), None);
        let headers = request.injected_headers();
        let [only] = headers.as_slice() else {
            panic!("{headers:?}")
        };
        assert_eq!(only.name, "authorization");
        assert_eq!(only.value.as_slice(), expected.as_bytes());
        assert!(!format!("{headers:?} {request:?}").contains("canary"));
        assert_eq!(request.check_required(), Ok(()));
        assert_eq!(request.findings().substituted(), 1);
    }
    let mut elsewhere = request_to("other.test", [bearer]);
    assert!(elsewhere.injected_headers().is_empty());
}

#[test]
fn bodies_are_read_only_where_something_may_become_a_value() {
    let framing = |kind: Option<BodyKind>| RequestFraming {
        kind,
        length: crate::BodyLength::Known(100),
        codings: Ok(crate::Codings::default()),
        has_digest: false,
        upstream: crate::UpstreamFraming::Http1,
        buffer_max_bytes: 10,
        is_strict: false,
    };
    let json_only = SecretRule {
        slots: Slots::NONE.with(Slot::Json),
        ..rule(1, VALUE)
    };
    let stream = BodyPlan::Stream {
        codings: crate::Codings::default(),
    };
    let same_length = rule(1, &"v".repeat(PLACEHOLDER_LEN));
    for (host, rule, kind, expected) in [
        (HOST, &json_only, Some(BodyKind::Json), stream.clone()),
        (HOST, &json_only, Some(BodyKind::Text), BodyPlan::Untouched),
        (HOST, &json_only, None, BodyPlan::Untouched),
        (
            "other.test",
            &json_only,
            Some(BodyKind::Json),
            BodyPlan::Untouched,
        ),
        (
            HOST,
            &same_length,
            Some(BodyKind::Text),
            BodyPlan::SameLength,
        ),
        (HOST, &same_length, Some(BodyKind::Json), stream),
    ] {
        let request = request_to(host, [rule.clone()]);
        assert_eq!(
            request.plan_body(&framing(kind.clone())),
            Ok(expected),
            "{kind:?}"
        );
    }
}

/// SUB-23: what is taken out of a request stays out.
#[test]
fn sub_23_a_revoked_secret_is_not_used() {
    let table = table([rule(1, VALUE)]);
    let mut eligibility = table.eligibility(&destination(HOST));
    eligibility.refuse(&table, &rule(1, "x").name, IneligibleReason::Revoked);
    let mut request = RequestSubstitution::new(&table, eligibility);
    assert_eq!(header(&mut request, "x-key", &ph(1)), None);
    assert_found(
        &request,
        &[ineligible(1, Slot::Header, IneligibleReason::Revoked)],
    );
    assert_eq!(placeholder(1).to_string(), ph(1));
}
