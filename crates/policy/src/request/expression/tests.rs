//! Expressions: what is taken, what is refused, what is unknown, and what it may cost.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{
    host::HostName,
    network::Target,
    request::{CanonicalPath, RequestHead, facts::Facts},
};

fn evaluate_in(
    expression: &Expression,
    json: Option<&serde_json::Value>,
    body_len: usize,
) -> Option<bool> {
    let name = HostName::parse("api.test").expect("a name");
    let path = CanonicalPath::parse("/v1/chat").expect("a path");
    let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
    let head = RequestHead {
        target: Target::Name(&name),
        port: 443,
        method: "post",
        path: "/v1/chat",
        query: Some("beta=1&beta=2"),
        headers: &[("X-Kind", b"a"), ("content-type", b"application/json")],
        has_body: true,
        content_length: Some(17),
    };
    let facts = Facts::new(&head, &path, &labels);
    expression.evaluate(&Variables {
        facts: &facts,
        json,
        body_len,
    })
}

fn check(source: &str, expected: Option<bool>) {
    let body = json!({
        "model": "gpt-4", "max_tokens": 4096, "ratio": 0.5, "big": 18_446_744_073_709_551_615_u64,
        "messages": [{"role": "user", "text": "a"}, {"role": "system"}], "none": null
    });
    let expression =
        Expression::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_eq!(
        evaluate_in(&expression, Some(&body), 200),
        expected,
        "{source}"
    );
}

#[test]
fn expressions_see_the_request_and_its_body() {
    for (source, expected) in [
        ("true", true),
        ("request.method == 'POST'", true),
        ("request.path.startsWith('/v1/')", true),
        ("request.host == 'api.test' && request.port == 443", true),
        ("request.headers['x-kind'] == ['a']", true),
        ("'2' in request.query.beta", true),
        ("request.content_type == 'application/json'", true),
        ("request.body_bytes <= 17", true),
        ("labels.team == 'red'", true),
        ("json.max_tokens <= 4096", true),
        ("json.max_tokens < 4096", false),
        ("json.max_tokens < 4096.5", true),
        ("json.ratio < 1", true),
        ("json.big > 1u", true),
        ("json.model in ['gpt-4', 'gpt-5']", true),
        ("json.model == 7", false),
        ("has(json.model) && !has(json.stream)", true),
        ("size(json.messages) == 2", true),
        ("json.messages.all(m, m.role in ['user', 'system'])", true),
        ("json.messages.exists(m, m.role == 'system')", true),
        ("json.messages.exists(m, m.role == labels.team)", false),
        ("json.none == null", true),
        ("has(json.stream) ? json.stream : true", true),
        ("false && json.missing == 1", false),
        ("json.max_tokens * 2 - 1 >= 8191", true),
    ] {
        check(source, Some(expected));
    }
}

#[test]
fn what_fails_is_unknown() {
    for source in [
        "json.missing == 1",
        "json.model < 3",
        "json.messages[9].role == 'user'",
        "json.max_tokens / 0 == 1",
        "json.max_tokens",
        "json.messages.all(m, m.text == 'a')",
        "9223372036854775807 + json.max_tokens > 0",
        "labels.missing == 'x'",
        "json.model.size == 1",
        "true && json.missing",
    ] {
        check(source, None);
    }
}

#[test]
fn a_request_without_a_body_has_an_empty_map() {
    let expression = Expression::compile("!has(json.model)").expect("an expression");
    assert_eq!(evaluate_in(&expression, None, 0), Some(true));
    assert!(expression.reads_body() && !expression.reads_request());
}

#[test]
fn what_is_no_expression_is_told_what_to_write() {
    let long = "true||".repeat(200) + "true";
    let wide = format!("{}1 in [{}1]", "", "1,".repeat(300));
    let deep = format!("{}true", "!(true && ".repeat(14)) + &")".repeat(14);
    let chain = format!("json{} == 1", ".a".repeat(40));
    for (source, hint) in [
        (long.as_str(), "use several rules"),
        (wide.as_str(), "parts"),
        (deep.as_str(), "levels"),
        (chain.as_str(), "levels"),
        ("", "not valid CEL"),
        ("json.", "not valid CEL"),
        ("request.method = 'GET'", "not valid CEL"),
        ("secret == 1", "`secret` is not a variable"),
        ("env.X == 1", "`env` is not a variable"),
        ("json.a.matches('(a+)+$')", "`matches` cannot be called"),
        ("string(json.a) == ''", "`string` cannot be called"),
        ("json.a.map(x, x) == []", "only loops"),
        ("json.a.filter(x, x > 1) == []", "only loops"),
        ("json.a.exists_one(x, x > 1)", "only loops"),
        ("json.a.all(x, x.all(y, y > 1))", "another loop"),
        ("json.a.all(x, json.b == x)", "not `json`"),
        ("json.a.all(x, request.path == x)", "not `request`"),
        ("json.a.all(json, json == 1)", "`json` is not a variable"),
        ("json.a.all(x, x + x == 'aa')", "not inside a loop"),
        (
            "json.a + json.a + json.a + json.a + json.a + json.a == ''",
            "may stand 4 times",
        ),
        ("Message{a: 1} == 1", "cannot be written"),
    ] {
        let error = Expression::compile(source).expect_err(source).to_string();
        assert!(error.contains(hint), "{source}: {error}");
    }
}

/// Deep sources end a process when a parser uses the stack for each level.
#[test]
fn deep_sources_are_refused_on_a_small_stack() {
    let shapes = [
        ("(", ")"),
        ("[", "]"),
        ("!(", ")"),
        ("size(", ")"),
        ("true ? ", " : true"),
        ("-", ""),
        ("!", ""),
        ("{1:", "}"),
    ];
    let compile = move || {
        for (open, close) in shapes {
            for depth in [10, 40, 160, 500] {
                let source = format!("{}true{}", open.repeat(depth), close.repeat(depth));
                let compiled = Expression::compile(&source);
                assert!(
                    compiled.is_err() || depth == 10 || matches!(open, "(" | "-" | "!"),
                    "{source}"
                );
                if let Ok(expression) = compiled {
                    assert!(expression.shape.nodes <= EXPRESSION_NODES_MAX);
                    evaluate_in(&expression, None, 0);
                }
            }
        }
    };
    let thread = std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(compile);
    thread.expect("a thread").join().expect("no overflow");
}

#[test]
fn too_much_work_is_unknown_and_not_begun() {
    let expression = Expression::compile("json.text.contains('b')").expect("an expression");
    let body = json!({"text": "a"});
    assert_eq!(evaluate_in(&expression, Some(&body), 1 << 20), Some(false));
    assert_eq!(evaluate_in(&expression, Some(&body), WORK_MAX), None);
}

/// Guests choose the values, so no operation may end the program, whatever its operands.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn no_values_make_an_operation_panic() {
    let body = json!({
        "min": i64::MIN, "max": i64::MAX, "big": u64::MAX, "zero": 0, "neg": -1, "f": 1.5, "huge": 1e308,
        "s": "a\u{301}😀", "e": "", "l": [1, "a", null], "m": {"a": 1}, "n": null, "t": true
    });
    let operands = [
        "json.min",
        "json.max",
        "json.big",
        "json.zero",
        "json.neg",
        "json.f",
        "json.huge",
        "json.s",
        "json.e",
        "json.l",
        "json.m",
        "json.n",
        "json.t",
        "json.missing",
        "json",
        "-1",
        "0",
        "1u",
        "'a'",
        "b'a'",
        "[1]",
        "{'a': 1}",
        "labels",
        "request",
        "request.headers",
    ];
    let shapes = [
        "A == B",
        "A != B",
        "A < B",
        "A >= B",
        "A + B == A",
        "A - B == A",
        "A * B == A",
        "A / B == A",
        "A % B == A",
        "A in B",
        "A[B] == A",
        "A && B",
        "A || B",
        "A ? B : A",
        "A.contains(B)",
        "A.startsWith(B)",
        "A.endsWith(B)",
        "size(A) == B",
        "size(A, B)",
        "A.size() == B",
        "-A == B",
        "!A == B",
        "has(A.a)",
        "A.all(x, x == B)",
        "A.exists(x, x == B)",
        "A.all(x, x[0] == 'a')",
        "contains(A, B)",
    ];
    let mut evaluated = 0_usize;
    for (a, b) in operands
        .iter()
        .flat_map(|a| operands.iter().map(move |b| (a, b)))
    {
        for shape in shapes {
            let source = shape.replace('A', a).replace('B', b);
            if let Ok(expression) = Expression::compile(&source) {
                evaluate_in(&expression, Some(&body), 300);
                evaluated += 1;
            }
        }
    }
    assert!(evaluated > 10_000, "{evaluated}");
}
