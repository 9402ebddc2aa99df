//! Reads the parameters of a call, and says what is wrong with bad ones the
//! way the SDKs expect it: as the issue list of a `ZodError`.

use serde::{Deserialize, Serialize};
use serde_path_to_error::Segment;
use tombolo_api::rpc::ErrorObject;

use super::fault::CallError;

/// The parameters do not fit the method.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .issue.path.join("."), .issue.message)]
pub(super) struct InvalidParams {
    issue: Issue,
}

#[derive(Debug, Serialize)]
struct Issue {
    expected: String,
    code: &'static str,
    path: Vec<String>,
    message: String,
}

/// Reads a call's parameters.
pub(super) fn parse<'a, T: Deserialize<'a>>(params: &'a [u8]) -> Result<T, CallError> {
    let first = params.iter().find(|byte| !byte.is_ascii_whitespace());
    // A struct also parses from an array, whose order means nothing here.
    if first != Some(&b'{') {
        return Err(invalid(&[], "object", "not an object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(params);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        CallError::InvalidParams(InvalidParams {
            issue: issue(&error),
        })
    })
}

/// A value of the right type that makes no sense.
pub(super) fn invalid(path: &[&str], expected: &str, received: &str) -> CallError {
    CallError::InvalidParams(InvalidParams {
        issue: Issue {
            expected: expected.to_owned(),
            code: "invalid_type",
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            message: format!("Invalid input: expected {expected}, received {received}"),
        },
    })
}

impl InvalidParams {
    /// The Python SDK reads the list of issues from JSON within the message.
    pub(super) fn into_zod_error(self) -> ErrorObject {
        let issues = serde_json::to_string(&[self.issue]).unwrap_or_else(|_| "[]".to_owned());
        ErrorObject::new("ZodError", issues)
    }
}

fn issue(error: &serde_path_to_error::Error<serde_json::Error>) -> Issue {
    let mut path: Vec<String> = error.path().iter().filter_map(segment).collect();
    let text = error.inner().to_string();
    // serde_json adds where in the message it stood, which is of no use here.
    let text = text.split(" at line ").next().unwrap_or_default();
    if let Some(field) = quoted(text, "missing field `") {
        let expected = expected_of_field(field);
        path.push(field.to_owned());
        return Issue {
            message: format!("Invalid input: expected {expected}, received undefined"),
            expected: expected.to_owned(),
            code: "invalid_type",
            path,
        };
    }
    let Some((received, expected)) = text
        .strip_prefix("invalid type: ")
        .and_then(|rest| rest.split_once(", expected "))
    else {
        return Issue {
            expected: "valid".to_owned(),
            code: "invalid_value",
            path,
            message: format!("Invalid input: {text}"),
        };
    };
    let (expected, received) = (zod_type(expected), zod_type(received));
    Issue {
        message: format!("Invalid input: expected {expected}, received {received}"),
        expected: expected.to_owned(),
        code: "invalid_type",
        path,
    }
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    }
}

fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.split('`').next()
}

/// What zod calls the types that serde names.
fn zod_type(serde_name: &str) -> &str {
    let known = [
        ("string", "string"),
        ("a string", "string"),
        ("borrowed string", "string"),
        ("str", "string"),
        ("integer", "number"),
        ("floating point", "number"),
        ("number", "number"),
        ("an integer", "number"),
        ("u", "number"),
        ("i", "number"),
        ("f", "number"),
        ("boolean", "boolean"),
        ("a boolean", "boolean"),
        ("sequence", "array"),
        ("a sequence", "array"),
        ("map", "object"),
        ("a map", "object"),
        ("struct", "object"),
        ("null", "null"),
        ("unit value", "null"),
    ];
    let is_sized = |prefix: &str| {
        serde_name
            .strip_prefix(prefix)
            .is_some_and(|bits| !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    known
        .iter()
        .find(|(name, _)| {
            if name.len() == 1 {
                is_sized(name)
            } else {
                serde_name
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            }
        })
        .map_or(serde_name, |(_, zod)| zod)
}

/// The type of a required field, which serde does not tell when it is missing.
fn expected_of_field(field: &str) -> &'static str {
    match field {
        "pid" | "port" | "mode" | "length" | "whence" | "rows" | "columns" => "number",
        _ if field.ends_with("Id") => "number",
        "offset" => "number",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tombolo_api::rpc::{HandleReadParams, SpawnParams, WriteParams};

    use super::*;

    fn issues<'a, T: Deserialize<'a>>(params: &'a str) -> Value {
        match parse::<T>(params.as_bytes()).err() {
            Some(CallError::InvalidParams(invalid)) => {
                let error = invalid.into_zod_error();
                assert_eq!(error.constructor_name, "ZodError");
                serde_json::from_str(&error.message).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wrong_parameters_are_named_with_what_was_expected() {
        let cases = [
            (
                issues::<SpawnParams>(r#"{"args":[]}"#),
                json!({"expected":"string","code":"invalid_type","path":["command"],
                    "message":"Invalid input: expected string, received undefined"}),
            ),
            (
                issues::<SpawnParams>(r#"{"command":null}"#),
                json!({"expected":"string","code":"invalid_type","path":["command"],
                    "message":"Invalid input: expected string, received null"}),
            ),
            (
                issues::<SpawnParams>(r#"{"command":"x","args":["a",3]}"#),
                json!({"expected":"string","code":"invalid_type","path":["args","1"],
                    "message":"Invalid input: expected string, received number"}),
            ),
            (
                issues::<SpawnParams>(r#"{"command":"x","env":{"A":true}}"#),
                json!({"expected":"string","code":"invalid_type","path":["env","A"],
                    "message":"Invalid input: expected string, received boolean"}),
            ),
            (
                issues::<WriteParams<'_>>(r#"{"path":"x","content":"","options":{"mode":"7"}}"#),
                json!({"expected":"number","code":"invalid_type","path":["options","mode"],
                    "message":"Invalid input: expected number, received string"}),
            ),
            (
                issues::<HandleReadParams>(r#"{"fileHandleId":1}"#),
                json!({"expected":"number","code":"invalid_type","path":["length"],
                    "message":"Invalid input: expected number, received undefined"}),
            ),
            (
                issues::<HandleReadParams>("[1,2]"),
                json!({"expected":"object","code":"invalid_type","path":[],
                    "message":"Invalid input: expected object, received not an object"}),
            ),
        ];
        for (issues, expected) in cases {
            assert_eq!(issues, json!([expected]));
        }
    }

    #[test]
    fn an_unknown_choice_is_an_invalid_value() {
        let issues = issues::<SpawnParams>(r#"{"command":"x","stdout":"file"}"#);
        assert_eq!(issues[0]["code"], "invalid_value");
        assert_eq!(issues[0]["path"], json!(["stdout"]));
    }
}
