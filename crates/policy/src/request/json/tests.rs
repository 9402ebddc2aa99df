//! HTTP-20: strict JSON, and pointers.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn plain_json_is_read() {
    let body = br#" {"model":"gpt","n":[1,2.5,-3,18446744073709551615],"x":{"y":null,"z":true}} "#;
    let value = parse(body).expect("JSON");
    assert_eq!(value, serde_json::from_slice::<Value>(body).expect("JSON"));
}

/// HTTP-20: what parsers read differently is not JSON.
#[test]
fn http_20_what_parsers_read_differently_is_not_json() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let wide = format!("[{}1]", "1,".repeat(JSON_VALUES_MAX));
    for body in [
        &br#"{"a":1,"a":2}"#[..],
        br#"{"a":1,"\u0061":2}"#,
        br#"{"model":"ok","Model":"bad"}"#,
        "{\"k\":1,\"\u{212a}\":2}".as_bytes(),
        "{\"s\":1,\"\u{17f}\":2}".as_bytes(),
        br#"{"x":{"a":1,"a":2}}"#,
        br#"[{"a":1,"a":2}]"#,
        b"\xef\xbb\xbf{}",
        b"{\0\"\0a\0\"\0:\x001\0}\0",
        b"{} {}",
        b"{}x",
        br#"{"a":1,}"#,
        br#"{"a":NaN}"#,
        br#"{"a":1e999}"#,
        br#"{"a":"\ud800"}"#,
        b"{\"a\":\"\xff\"}",
        br"{'a':1}",
        b"{/**/}",
        b"",
        deep.as_bytes(),
        wide.as_bytes(),
    ] {
        assert!(
            parse(body).is_err(),
            "{}",
            String::from_utf8_lossy(&body[..body.len().min(60)])
        );
    }
    let widest = format!("[{}1]", "1,".repeat(JSON_VALUES_MAX - 2));
    assert!(parse(widest.as_bytes()).is_ok());
}

#[test]
fn pointers_find_values() {
    let document = json!({
        "model": "gpt", "a/b": {"c~d": 1}, "list": [{"role": "user"}], "": 2, "Case": 3
    });
    for (pointer, expected) in [
        ("/model", Found::Value(&json!("gpt"))),
        ("/a~1b/c~0d", Found::Value(&json!(1))),
        ("/list/0/role", Found::Value(&json!("user"))),
        ("/", Found::Value(&json!(2))),
        ("/list/1", Found::Missing),
        ("/list/00", Found::Missing),
        ("/list/-", Found::Missing),
        ("/model/x", Found::Missing),
        ("/other", Found::Missing),
        ("/case", Found::Ambiguous),
        ("/MODEL", Found::Ambiguous),
        ("/list/0/ROLE", Found::Ambiguous),
    ] {
        let parsed = Pointer::parse(pointer).expect("a pointer");
        assert_eq!(parsed.find(&document), expected, "{pointer}");
    }
    let whole = Pointer::parse("").expect("a pointer");
    assert_eq!(whole.find(&document), Found::Value(&document));
}

#[test]
fn texts_that_are_no_pointers_are_refused() {
    let long = "/a".repeat(POINTER_LEN_MAX);
    for (text, error) in [
        ("model", PointerError::NoSlash),
        ("/a~2", PointerError::Tilde),
        ("/a~", PointerError::Tilde),
        (long.as_str(), PointerError::TooLong),
    ] {
        assert_eq!(Pointer::parse(text), Err(error));
    }
}

proptest! {
    #[test]
    fn bytes_never_panic_and_agree_with_the_library(body in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(value) = parse(&body) {
            prop_assert_eq!(value, serde_json::from_slice::<Value>(&body).expect("JSON"));
        }
    }

    #[test]
    fn json_like_texts_agree_with_the_library(body in "(\\{|\\}|\\[|\\]|,|:|\"a\"|\"A\"|\"b\"|1|-2.5|null|true){0,20}") {
        if let Ok(value) = parse(body.as_bytes()) {
            prop_assert_eq!(value, serde_json::from_str::<Value>(&body).expect("JSON"));
        }
    }
}
