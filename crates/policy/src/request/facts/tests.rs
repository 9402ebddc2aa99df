//! What is read of a request.

use super::*;
use crate::{host::HostName, network::Target};

fn with_facts<T>(
    method: &str,
    query: Option<&str>,
    headers: &[(&str, &[u8])],
    read: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    let name = HostName::parse("a.test").expect("a name");
    let path = CanonicalPath::parse("/").expect("a path");
    let labels = BTreeMap::new();
    let head = RequestHead {
        target: Target::Name(&name),
        port: 443,
        method,
        path: "/",
        query,
        headers,
        has_body: true,
        content_length: None,
    };
    read(&Facts::new(&head, &path, &labels))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn http_17_every_method_a_server_may_see_is_known() {
    for (method, query, headers, names, complete) in [
        ("GET", None, &[][..], &["GET"][..], true),
        ("get", None, &[], &["get", "GET"], true),
        (
            "POST",
            None,
            &[("X-HTTP-Method-Override", &b"DELETE"[..])],
            &["POST", "DELETE"],
            true,
        ),
        (
            "POST",
            None,
            &[("x-http-method", b" put ")],
            &["POST", "PUT"],
            true,
        ),
        (
            "POST",
            None,
            &[("X-Method-Override", b"PATCH, DELETE")],
            &["POST", "PATCH", "DELETE"],
            true,
        ),
        ("POST", None, &[("x-http-method", b"")], &["POST"], false),
        (
            "POST",
            None,
            &[("x-http-method", b"\xff")],
            &["POST"],
            false,
        ),
        (
            "POST",
            None,
            &[("x-http-method", b"DE LETE")],
            &["POST"],
            false,
        ),
        (
            "POST",
            Some("a=1&_method=delete"),
            &[],
            &["POST", "DELETE"],
            true,
        ),
        (
            "POST",
            Some("%5Fmethod=delete"),
            &[],
            &["POST", "DELETE"],
            true,
        ),
        (
            "GET",
            Some("$httpMethod=DELETE"),
            &[],
            &["GET", "DELETE"],
            true,
        ),
        (
            "GET",
            Some("a=1;_method=DELETE"),
            &[],
            &["GET", "DELETE"],
            true,
        ),
        ("GET", Some("a=1;b=2"), &[], &["GET"], true),
        ("GET", Some("a=%zz"), &[], &["GET"], false),
        ("POST", Some("_method=POST"), &[], &["POST"], true),
    ] {
        with_facts(method, query, headers, |facts| {
            assert_eq!(facts.methods.names, names, "{method} {query:?} {headers:?}");
            assert_eq!(
                facts.methods.complete, complete,
                "{method} {query:?} {headers:?}"
            );
        });
    }
}

/// HTTP-20: a body is JSON by one clear type.
#[test]
fn http_20_a_body_is_json_by_one_clear_type() {
    for (values, expected) in [
        (&["application/json"][..], true),
        (&["Application/JSON; charset=UTF-8"], true),
        (&["application/vnd.api+json"], true),
        (&["application/json;charset=\"utf-8\""], true),
        (&["application/json; charset=utf-16"], false),
        (&["application/json; charset=utf-8; charset=utf-7"], false),
        (&["text/plain"], false),
        (&["application/x-www-form-urlencoded"], false),
        (&["application/json, text/plain"], false),
        (&["application/json", "text/plain"], false),
        (&["application/json; boundary"], false),
        (&["json"], false),
        (&[""], false),
        (&[], false),
    ] {
        let headers: Vec<(&str, &[u8])> = values
            .iter()
            .map(|value| ("Content-Type", value.as_bytes()))
            .collect();
        let is_json = with_facts("POST", None, &headers, |facts: &Facts<'_>| {
            Facts::is_json(facts)
        });
        assert_eq!(is_json, expected, "{values:?}");
    }
}

#[test]
fn methods_are_bounded() {
    let many = (0..100)
        .map(|index| format!("M{index}"))
        .collect::<Vec<_>>()
        .join(",");
    with_facts(
        "GET",
        None,
        &[("x-http-method", many.as_bytes())],
        |facts| {
            assert_eq!(facts.methods.names.len(), 16);
            assert!(!facts.methods.complete);
        },
    );
}
