//! Changes some keys of VS Code's `settings.json` and nothing else of its text.
//!
//! People write comments there and leave commas at ends; both stay, as does the order.
//! The text is a sandbox's: it may be anything. Nothing here asks the sandbox.

use std::collections::HashMap;

use jsonc_parser::ast::{Object, Value as Parsed};
use jsonc_parser::errors::ParseError;
use jsonc_parser::tokens::Token;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};
use serde::Serialize as _;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Serializer, Value};

/// VS Code's own, for a file that has no properties yet.
const INDENT: &str = "    ";
/// Some editors put it at the start of a file. VS Code passes over it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    #[error("it is not JSON with comments: {0}")]
    Unreadable(#[source] ParseError),
    #[error("it is JSON, but not an object of settings")]
    NotAnObject,
    #[error("the settings cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}

/// The text with each of `asked` at its top level, replaced where it was, and otherwise
/// after the last one.
pub(super) fn merge(text: &str, asked: &Map<String, Value>) -> Result<String, MergeError> {
    let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (BYTE_ORDER_MARK.to_string(), rest),
        None => (String::new(), text),
    };
    let collect = CollectOptions {
        comments: CommentCollectionStrategy::Off,
        tokens: true,
    };
    let parsed =
        parse_to_ast(text, &collect, &as_vscode_reads()).map_err(MergeError::Unreadable)?;
    let object = match &parsed.value {
        Some(Parsed::Object(object)) => object,
        Some(_) => return Err(MergeError::NotAnObject),
        // Nothing, or nothing but comments.
        None => return Ok(format!("{mark}{}", fresh(text, asked)?)),
    };
    let tokens = parsed.tokens.unwrap_or_default();
    // The last one closes the object.
    let before_end = tokens.iter().rev().nth(1).map(|token| &token.token);
    let needs_comma = !matches!(before_end, Some(Token::Comma | Token::OpenBrace));
    let edits = edits(text, object, needs_comma, asked)?;
    Ok(mark + &apply(text, edits))
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

/// New text in the place of what is between two offsets.
struct Edit {
    start: usize,
    end: usize,
    text: String,
}

fn edits(
    text: &str,
    object: &Object<'_>,
    needs_comma: bool,
    asked: &Map<String, Value>,
) -> Result<Vec<Edit>, MergeError> {
    // Of several with one name VS Code takes the last.
    let present: HashMap<_, _> = (object.properties.iter())
        .map(|property| (property.name.as_str(), &property.value))
        .collect();
    let last = object.properties.last();
    let indent = last.and_then(|last| indent_of(text, last.range.start));
    let indent = indent.unwrap_or(INDENT);
    let mut edits = Vec::new();
    let mut added = Vec::new();
    for (name, value) in asked {
        if let Some(old) = present.get(name.as_str()) {
            let range = jsonc_parser::common::Ranged::range(*old);
            edits.push(Edit {
                start: range.start,
                end: range.end,
                text: written(value, indent)?,
            });
        } else {
            added.push(property(name, value, indent)?);
        }
    }
    let Some(additions) = additions(&added) else {
        return Ok(edits);
    };
    if let Some(last) = last.filter(|_| needs_comma) {
        edits.push(Edit {
            start: last.range.end,
            end: last.range.end,
            text: ",".to_owned(),
        });
    }
    // After the last thing before the brace, which may be a comment to the end of its line.
    let brace = object.range.end.saturating_sub(1);
    let inside = text.get(..brace).unwrap_or_default();
    let at = inside.trim_end().len();
    let breaks = inside.get(at..).unwrap_or_default().contains('\n');
    edits.push(Edit {
        start: at,
        end: at,
        text: additions + if breaks { "" } else { "\n" },
    });
    Ok(edits)
}

/// The blanks between the start of a line and what is first in it.
fn indent_of(text: &str, at: usize) -> Option<&str> {
    let (_, blanks) = text.get(..at)?.rsplit_once('\n')?;
    blanks.trim_start().is_empty().then_some(blanks)
}

fn additions(added: &[String]) -> Option<String> {
    (!added.is_empty()).then(|| format!("\n{}", added.join(",\n")))
}

fn property(name: &str, value: &Value, indent: &str) -> Result<String, MergeError> {
    let name = serde_json::to_string(name).map_err(MergeError::Unwritable)?;
    Ok(format!("{indent}{name}: {}", written(value, indent)?))
}

/// A value whose further lines are indented as its property is.
fn written(value: &Value, indent: &str) -> Result<String, MergeError> {
    let mut bytes = Vec::new();
    let step = if indent.is_empty() { INDENT } else { indent };
    let formatter = PrettyFormatter::with_indent(step.as_bytes());
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    let done = value.serialize(&mut serializer);
    done.map_err(MergeError::Unwritable)?;
    // A line break inside a string is escaped, so each of these is between values.
    let lines = String::from_utf8_lossy(&bytes);
    Ok(lines.replace('\n', &format!("\n{indent}")))
}

/// An object after what comments there are.
fn fresh(comments: &str, asked: &Map<String, Value>) -> Result<String, MergeError> {
    let comments = comments.trim();
    let properties: Result<Vec<_>, _> = (asked.iter())
        .map(|(name, value)| property(name, value, INDENT))
        .collect();
    let object = match additions(&properties?) {
        Some(properties) => format!("{{{properties}\n}}\n"),
        None => "{}\n".to_owned(),
    };
    Ok(if comments.is_empty() {
        object
    } else {
        format!("{comments}\n{object}")
    })
}

fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    // Stable: a comma goes before what is added at the same place.
    edits.sort_by_key(|edit| edit.start);
    let mut changed = String::with_capacity(text.len());
    let mut copied = 0;
    for edit in edits {
        changed.push_str(text.get(copied..edit.start).unwrap_or_default());
        changed.push_str(&edit.text);
        copied = edit.end;
    }
    changed.push_str(text.get(copied..).unwrap_or_default());
    changed
}

#[cfg(test)]
mod tests {
    use jsonc_parser::parse_to_ast;
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
            (
                "",
                "{\n    \"a\": 2,\n    \"n\": {\n        \"x\": [\n            1\n        ]\n    }\n}\n",
            ),
            (
                "{}",
                "{\n    \"a\": 2,\n    \"n\": {\n        \"x\": [\n            1\n        ]\n    }\n}",
            ),
            // An editor's: a mark, comments, a comma at the end, another indent.
            (
                "\u{feff}// Mine.\n{\n  // The first.\n  \"a\": 1, // one\n  \"b\": /* two */ 2, // last\n}\n",
                "\u{feff}// Mine.\n{\n  // The first.\n  \"a\": 2, // one\n  \"b\": /* two */ 2, // last\n  \
                 \"n\": {\n    \"x\": [\n      1\n    ]\n  }\n}\n",
            ),
            (
                "{\n\t\"b\": \"}\" // no comma\n}",
                "{\n\t\"b\": \"}\", // no comma\n\t\"a\": 2,\n\t\"n\": {\n\t\t\"x\": [\n\t\t\t1\n\t\t]\n\t}\n}",
            ),
            // What was there twice counts once, and the last does.
            (
                "{\"n\": {\"deep\": [[]]}, \"a\": 0, \"a\": 1}",
                "{\"n\": {\n        \"x\": [\n            1\n        ]\n    }, \"a\": 0, \"a\": 2}",
            ),
            (
                "{ // nothing\n}",
                "{ // nothing\n    \"a\": 2,\n    \"n\": {\n        \"x\": [\n            1\n        ]\n    }\n}",
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
