//! Changes some keys of VS Code's `settings.json` and nothing else of its text.
//!
//! People write comments there and leave commas at ends; both stay, as does the order.
//! The text is a sandbox's: it may be anything. Nothing here asks the sandbox.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstRootNode};
use jsonc_parser::errors::ParseError;
use serde_json::{Map, Value};

/// Some editors put it at the start of a file. VS Code passes over it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    #[error("it is not JSON with comments: {0}")]
    Unreadable(#[source] ParseError),
    #[error("it is JSON, but not an object of settings")]
    NotAnObject,
}

/// The text with each of `asked` at its top level, replaced where it was, and otherwise
/// after the last one.
pub(super) fn merge(text: &str, asked: &Map<String, Value>) -> Result<String, MergeError> {
    let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (BYTE_ORDER_MARK.to_string(), rest),
        None => (String::new(), text),
    };
    let root = CstRootNode::parse(text, &as_vscode_reads()).map_err(MergeError::Unreadable)?;
    let object = root
        .object_value_or_create()
        .ok_or(MergeError::NotAnObject)?;
    for (name, value) in asked {
        let is_it = |decoded: Option<String>| decoded.as_ref() == Some(name);
        let properties = object.properties();
        // Of several with one name VS Code takes the last.
        let last = properties.iter().rfind(|old| is_it(old.decoded_name()));
        match last {
            Some(property) => property.set_value(input(value)),
            None => drop(object.append(name, input(value))),
        }
    }
    Ok(format!("{mark}{root}"))
}

/// What VS Code reads without losing any of it.
fn as_vscode_reads() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_missing_commas: true,
        allow_loose_object_property_names: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(flag) => CstInputValue::Bool(*flag),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(map) => {
            let entry = |(name, value): (&String, &Value)| (name.clone(), input(value));
            CstInputValue::Object(map.iter().map(entry).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonc_parser::{CollectOptions, parse_to_ast};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn only_what_is_asked_for_changes() {
        let asked = json!({"a": 2, "n": {"x": [1]}});
        for (text, merged) in [
            ("", "{\n  \"a\": 2,\n  \"n\": {\n    \"x\": [1]\n  }\n}\n"),
            ("{}", "{\n  \"a\": 2,\n  \"n\": {\n    \"x\": [1]\n  }\n}"),
            // An editor's: a mark, comments, a comma at the end, another indent.
            (
                "\u{feff}// Mine.\n{\n   // The first.\n   \"a\": 1, // one\n   \"b\": /* two */ 2, // last\n}\n",
                "\u{feff}// Mine.\n{\n   // The first.\n   \"a\": 2, // one\n   \"b\": /* two */ 2, // last\n   \
                 \"n\": {\n      \"x\": [1],\n   },\n}\n",
            ),
            (
                "{\n\t\"b\": \"}\" // no comma\n}",
                "{\n\t\"b\": \"}\", // no comma\n\t\"a\": 2,\n\t\"n\": {\n\t\t\"x\": [1]\n\t}\n}",
            ),
            // What was there twice counts once, and the last does.
            (
                "{\"n\": {\"deep\": [[]]}, \"a\": 0, \"a\": 1}",
                "{\"n\": {\n    \"x\": [1]\n  }, \"a\": 0, \"a\": 2}",
            ),
            (
                "{ // nothing\n}",
                "{ // nothing\n  \"a\": 2,\n  \"n\": {\n    \"x\": [1]\n  }\n}",
            ),
        ] {
            let found = merge(text, &object(asked.clone())).unwrap();
            assert_eq!(found, merged, "{text:?}");
        }
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        for text in ["{}", "{ \"a\": 1, /* x */ }\r\n", "{\n}"] {
            assert_eq!(merge(text, &Map::new()).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let deep = "[".repeat(100_000);
        for text in [
            "{\"a\" 1}",
            "{",
            "[]",
            "null",
            "{}{}",
            "{a: 1}",
            "nonsense",
            &deep,
        ] {
            let error = merge(text, &object(json!({"a": 1}))).unwrap_err();
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    fn settings() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\"\\\\\n/*,{}]{0,6}".prop_map(Value::from),
        ];
        let deep = leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        proptest::collection::hash_map("[a-f]", deep, 0..6)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn it_is_what_was_there_and_over_it_what_is_asked_for(
            old in settings(), asked in settings(), is_pretty: bool,
        ) {
            let text = if is_pretty { serde_json::to_string_pretty(&old) } else { serde_json::to_string(&old) };
            let merged = merge(&text.unwrap(), &object(asked.clone())).unwrap();
            let mut expected = object(old);
            expected.extend(object(asked));
            prop_assert_eq!(serde_json::from_str::<Value>(&merged).unwrap(), Value::Object(expected));
        }

        #[test]
        fn nothing_breaks_it_and_it_breaks_nothing(text in "[{}\\[\\]a\",:/* \n\r\t\\\\é1]{0,40}") {
            let asked = object(json!({"a": "b", "c": {"d": 1}}));
            if let Ok(merged) = merge(&text, &asked) {
                let parsed = parse_to_ast(&merged, &CollectOptions::default(), &as_vscode_reads());
                prop_assert!(parsed.is_ok(), "{merged:?}");
                prop_assert_eq!(merge(&merged, &asked).unwrap(), merged);
            }
        }
    }
}
