//! The form of documents: what the SDKs send is a part of it, and nothing unknown is taken.

use serde_json::json;

use super::*;

#[test]
fn what_the_sdks_send_is_a_document() {
    let document: PolicyDocument = serde_json::from_value(json!({
        "version": 1,
        "allow_net": ["example.com:443"],
        "secrets": {"K": {"hosts": ["api.x.com"]}},
    }))
    .expect("a document");
    assert_eq!(document.allow_net, Some(vec!["example.com:443".to_owned()]));
    assert_eq!(document.generation, 0);
    let unrestricted: PolicyDocument =
        serde_json::from_value(json!({"version": 1})).expect("a document");
    assert_eq!(unrestricted, PolicyDocument::unrestricted());
    let closed: PolicyDocument =
        serde_json::from_value(json!({"version": 1, "allow_net": []})).expect("a document");
    assert_eq!(closed.allow_net, Some(Vec::new()));
}

fn full() -> Value {
    json!({
        "version": 1, "generation": 7, "allow_net": ["*.a.test"],
        "secrets": {"K": {
            "hosts": ["api.a.test"], "in": ["header", "json", "websocket"], "require": true,
            "on_ineligible": "deny", "allow_range": true, "placeholder": {"shape": "sk-{}", "same_length": true}
        }},
        "net": {
            "intercept": "all", "passthrough": ["pinned.a.test"], "mode": "audit", "path": "strict",
            "inspect_body_bytes": 1000,
            "rules": [{
                "id": "r", "host": ["a.a.test", "b.a.test:443"], "action": "allow", "mode": "enforce",
                "method": "GET", "path": ["/a", "/b/**"], "encoded_slash": true,
                "query": {"a": "1", "b": ["1", "2"], "c": false}, "headers": {"x-a": true},
                "content_type": "application/json", "max_body_bytes": 10, "rate": "1/s",
                "json": {"/a": {"in": [1, "x"], "min": 1.0}, "/b": {"present": true, "equals": null}},
                "when": "true", "guidance": "g"
            }]
        }
    })
}

#[test]
fn a_document_is_printed_as_it_is_read() {
    let document: PolicyDocument = serde_json::from_value(full()).expect("a document");
    let printed = serde_json::to_value(&document).expect("JSON");
    let again: PolicyDocument = serde_json::from_value(printed.clone()).expect("a document");
    assert_eq!(again, document);
    assert_eq!(
        printed["net"]["rules"][0]["json"]["/a"],
        json!({"in": [1, "x"], "min": 1.0})
    );
}

#[test]
fn values_of_secrets_and_unknown_fields_are_refused() {
    for (place, field) in [
        ("", "allow"),
        ("/secrets/K", "value"),
        ("/secrets/K/placeholder", "text"),
        ("/net", "rule"),
        ("/net/rules/0", "metod"),
        ("/net/rules/0/json/~1a", "maximum"),
    ] {
        let mut document = full();
        let object = document.pointer_mut(place).and_then(Value::as_object_mut);
        object
            .expect("an object")
            .insert(field.to_owned(), json!("canary"));
        let error = serde_json::from_value::<PolicyDocument>(document)
            .expect_err(field)
            .to_string();
        assert!(
            error.contains(field) && !error.contains("canary"),
            "{error}"
        );
    }
}
