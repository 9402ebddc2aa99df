//! Long messages, however they are cut.

use ::base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::rpc::frame::BASE64;

/// What is left, the content and where it goes.
type Taken = (Vec<u8>, Vec<u8>, Option<Destination>);

fn take(message: &[u8], step: usize) -> Result<Taken, LongError> {
    let mut long = LongMessage::new(1000);
    let mut content = Vec::new();
    let mut held_most = 0;
    for piece in message.chunks(step) {
        content.extend(long.push(piece)?);
        held_most = held_most.max(long.rest.capacity());
    }
    assert!(held_most <= 2000, "held {held_most}");
    let destination = long.destination();
    let (last, rest) = long.finish()?;
    match last {
        Ok(last) => content.extend(last),
        Err(NotBase64) => content = b"not base64".to_vec(),
    }
    Ok((rest.to_vec(), content, destination))
}

fn call(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
}

/// A message, what is left of it, its content and destination.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    Option<Destination>,
);

const CASES: &[Case] = &[
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"writeFile","params":{"path":"a","content":"aGk="}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"writeFile","params":{"path":"a","content":""}}"#,
        "hi",
        Some(Destination::Call),
    ),
    (
        r#"{"method":"writeTextFile","params":{"content":"a\"\u00e9\ud83d\ude00\ud83d\n","x":[{"content":"c"}]},"id":1}"#,
        r#"{"method":"writeTextFile","params":{"content":"","x":[{"content":"c"}]},"id":1}"#,
        "a\"é😀\u{fffd}\n",
        Some(Destination::Call),
    ),
    (
        r#" { "method" : "fileWrite" , "params" : { "fileHandleId" : 3 , "data" : "aGkhaGk" } } "#,
        r#" { "method" : "fileWrite" , "params" : { "fileHandleId" : 3 , "data" : "" } } "#,
        "hi!hi",
        Some(Destination::Call),
    ),
    (
        r#"{"method":"$sandbox.stream.enqueue","params":{"streamId":12,"data":"aGk="}}"#,
        r#"{"method":"$sandbox.stream.enqueue","params":{"streamId":12,"data":""}}"#,
        "hi",
        Some(Destination::Stream(12)),
    ),
    (
        r#"{"method":"writeFile","params":{"content":"aGk=aGk="}}"#,
        r#"{"method":"writeFile","params":{"content":""}}"#,
        "not base64",
        Some(Destination::Call),
    ),
    // The method, or the stream, must be known before.
    (
        r#"{"params":{"content":"aGk="},"method":"writeFile"}"#,
        r#"{"params":{"content":"aGk="},"method":"writeFile"}"#,
        "",
        None,
    ),
    (
        r#"{"method":"$sandbox.stream.enqueue","params":{"data":"aGk=","streamId":1}}"#,
        r#"{"method":"$sandbox.stream.enqueue","params":{"data":"aGk=","streamId":1}}"#,
        "",
        None,
    ),
    (
        r#"{"method":"$sandbox.stream.enqueue","params":{"streamId":-1,"data":"aGk="}}"#,
        r#"{"method":"$sandbox.stream.enqueue","params":{"streamId":-1,"data":"aGk="}}"#,
        "",
        None,
    ),
    // Only the parameter itself is content.
    (
        r#"{"method":"writeFile","content":"a","params":["content","b",{"content":"c"}]}"#,
        r#"{"method":"writeFile","content":"a","params":["content","b",{"content":"c"}]}"#,
        "",
        None,
    ),
    (
        r#"{"method":"writeFile","options":{"content":"a"},"params":{"path":"content","options":{"content":"b"}}}"#,
        r#"{"method":"writeFile","options":{"content":"a"},"params":{"path":"content","options":{"content":"b"}}}"#,
        "",
        None,
    ),
];

#[test]
fn the_content_is_taken_out_however_the_message_is_cut() {
    for (message, rest, content, destination) in CASES {
        for step in [1, 2, 3, 7, message.len()] {
            let taken = take(message.as_bytes(), step).unwrap();
            assert_eq!(String::from_utf8_lossy(&taken.0), *rest, "{step}");
            assert_eq!(
                String::from_utf8_lossy(&taken.1),
                *content,
                "{message} {step}"
            );
            assert_eq!(taken.2, *destination, "{message}");
        }
    }
}

#[test]
fn what_cannot_be_taken_apart_is_told() {
    let beginning = br#"{"method":"writeTextFile","params":{"content":""#;
    let with = |content: &[u8]| [beginning, content].concat();
    let cases = [
        (with(b""), LongError::NotJson),
        (with(b"\n\"}}"), LongError::NotJson),
        (with(b"\\x\"}}"), LongError::NotJson),
        (with(b"\\u00g0\"}}"), LongError::NotJson),
        (with(b"\xff\"}}"), LongError::NotUtf8),
        (with(b"\xc3"), LongError::NotUtf8),
        (vec![b' '; 1001], LongError::TooLong),
        (
            call("envSet", &json!({"key": "A", "value": "x".repeat(1000)})).into(),
            LongError::TooLong,
        ),
    ];
    for (message, expected) in cases {
        for step in [1, 5, message.len()] {
            assert_eq!(take(&message, step), Err(expected), "{step}");
        }
    }
}

#[test]
fn a_long_content_is_never_held() {
    let text = "é\"\\ x".repeat(200_000);
    let message = call("writeTextFile", &json!({"path": "a", "content": text}));
    let (rest, content, _) = take(message.as_bytes(), 4096).unwrap();
    assert!(rest.len() < 100);
    assert!(content == text.as_bytes());
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let params = json!({"path": "a", "content": BASE64.encode(&bytes)});
    let (_, content, _) = take(call("writeFile", &params).as_bytes(), 4096).unwrap();
    assert!(content == bytes);
}

proptest! {
    #[test]
    fn text_survives(units in proptest::collection::vec(any::<u16>(), 0..40), step in 1_usize..20) {
        let escapes: Vec<_> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let message = format!(
            r#"{{"method":"writeTextFile","params":{{"content":"{}"}}}}"#,
            escapes.concat()
        );
        let (_, content, _) = take(message.as_bytes(), step).unwrap();
        prop_assert_eq!(String::from_utf8(content).unwrap(), String::from_utf16_lossy(&units));
    }

    #[test]
    fn bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..60), step in 1_usize..20) {
        let message = call("writeFile", &json!({"content": BASE64.encode(&bytes)}));
        prop_assert_eq!(take(message.as_bytes(), step).unwrap().1, bytes);
    }

    #[test]
    fn the_decoder_agrees_with_the_one_of_short_messages(text in "[A-D+/=ü ]{0,13}", step in 1_usize..5) {
        let mut decoder = Base64Decoder::default();
        let mut bytes = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            bytes.extend(decoder.push(piece));
        }
        let whole = decoder.finish().map(|last| [bytes, last].concat());
        prop_assert_eq!(whole, BASE64.decode(&text).ok());
    }

    /// Whoever hides something within JSON: what is left of a message is JSON
    /// exactly if the message was, and says the same beside the content.
    #[test]
    fn what_is_left_means_the_same(message in "[{}\\[\\],:\" \\\\a1]{0,30}", step in 1_usize..9) {
        let message = format!(r#"{{"method":"writeTextFile","params":{{{message}"content":"x"}}}}"#);
        let (rest, _, destination) = match take(message.as_bytes(), step) {
            Ok(taken) => taken,
            Err(error) => {
                prop_assert!(serde_json::from_str::<Value>(&message).is_err(), "{error}");
                return Ok(());
            }
        };
        let mut whole = serde_json::from_str::<Value>(&message).ok();
        if destination.is_some() && let Some(whole) = &mut whole {
            whole["params"]["content"] = json!("");
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(&rest).ok(), whole);
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1_usize..9) {
        let whole = take(&bytes, bytes.len().max(1));
        prop_assert_eq!(take(&bytes, step), whole);
    }
}
