//! Messages good, bad and hostile.

use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn describe(text: &str) -> String {
    match parse(&bytes(text)) {
        Ok(ClientMessage::Call(call)) => format!(
            "call {} {} {}",
            call.id.as_json(),
            call.method,
            String::from_utf8_lossy(&call.params)
        ),
        Ok(ClientMessage::StreamStart(id)) => format!("start {id}"),
        Ok(ClientMessage::StreamData { stream, data }) => {
            format!("data {stream} {}", String::from_utf8_lossy(&data))
        }
        Ok(ClientMessage::StreamEnd(id)) => format!("end {id}"),
        Ok(ClientMessage::StreamError { stream, error }) => {
            format!("error {stream} {}", error.message)
        }
        Ok(ClientMessage::StreamCancel(id)) => format!("cancel {id}"),
        Ok(ClientMessage::Ignored(_)) => "ignored".into(),
        Err(fault) => format!("fault {} {}", fault.id.as_json(), fault.code),
    }
}

const MESSAGES: &[(&str, &str)] = &[
    (
        r#"{"jsonrpc":"2.0","id":0,"method":"m","params":{"a":1}}"#,
        r#"call 0 m {"a":1}"#,
    ),
    (
        r#"{"jsonrpc":"2.0","id":"0","method":"m"}"#,
        r#"call "0" m {}"#,
    ),
    (
        r#"{"jsonrpc":"2.0","id":1.50,"method":"m","params":null}"#,
        "call 1.50 m {}",
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"\ud83d"}"#,
        r#"call 1 m "\ufffd""#,
    ),
    (
        r#"{"jsonrpc":"2.0","id":null,"method":"m","params":[1]}"#,
        "call null m [1]",
    ),
    (
        r#" {"x":1,"method":"\u006d","id":7,"jsonrpc":"2.0"} "#,
        "call 7 m {}",
    ),
    (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "ignored"),
    (r#"{"jsonrpc":"2.0","id":1,"error":null}"#, "ignored"),
    (
        r#"{"jsonrpc":"2.0","method":"other","params":{}}"#,
        "ignored",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":3}}"#,
        "start 3",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.end","params":{"streamId":3}}"#,
        "end 3",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.cancel","params":{"streamId":3,"reason":7}}"#,
        "cancel 3",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":3,"data":"aGk="}}"#,
        "data 3 hi",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":3,"data":"aGk"}}"#,
        "data 3 hi",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":3,"data":"?"}}"#,
        "error 3 the data of a stream is not base64",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":3}}"#,
        "error 3 the data of a stream must be a base64 string",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.error","params":{"streamId":3,"error":"boom"}}"#,
        "error 3 boom",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":-1}}"#,
        "ignored",
    ),
    (
        r#"{"jsonrpc":"2.0","method":"$sandbox.stream.start"}"#,
        "ignored",
    ),
];

#[test]
fn every_kind_of_message() {
    for (text, expected) in MESSAGES {
        assert_eq!(describe(text), *expected, "{text}");
    }
}

#[test]
fn every_kind_of_fault() {
    let long_id = format!(
        r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#,
        "x".repeat(300)
    );
    let cases = [
        ("", "fault null -32700"),
        ("not json", "fault null -32700"),
        ("{", "fault null -32700"),
        (r#"{"a":}"#, "fault null -32700"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m"} x"#,
            "fault null -32700",
        ),
        ("[]", "fault null -32600"),
        (r#"["2.0",1,"m",{}]"#, "fault null -32600"),
        ("1", "fault null -32600"),
        ("{}", "fault null -32600"),
        (r#"{"jsonrpc":"2.0"}"#, "fault null -32600"),
        (r#"{"jsonrpc":"2.0","id":5}"#, "fault 5 -32600"),
        (r#"{"id":5,"method":"m"}"#, "fault 5 -32600"),
        (r#"{"jsonrpc":2.0,"id":5,"method":"m"}"#, "fault 5 -32600"),
        (r#"{"jsonrpc":"2.0","id":5,"method":7}"#, "fault 5 -32600"),
        (
            r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#,
            "fault null -32600",
        ),
        (
            r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#,
            "fault null -32600",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#,
            "fault null -32600",
        ),
        (long_id.as_str(), "fault null -32600"),
    ];
    for (text, expected) in cases {
        assert_eq!(describe(text), expected, "{text}");
    }
}

#[test]
fn deep_nesting_is_not_followed() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{deep}}}"#);
    assert!(describe(&text).starts_with("call 1 m [["));
}

#[test]
fn bytes_that_are_not_text_are_a_parse_error() {
    let frame = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}");
    assert_eq!(parse(&frame).unwrap_err().code, code::PARSE_ERROR);
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(frame in proptest::collection::vec(any::<u8>(), 0..512)) {
        drop(parse(&Bytes::from(frame)));
    }

    #[test]
    fn any_cut_and_changed_message_gives_an_answer(
        at in 0_usize..90, byte in any::<u8>(), keep in 0_usize..90
    ) {
        let mut frame = br#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"aGk="}}"#.to_vec();
        frame.truncate(keep);
        if let Some(place) = frame.get_mut(at) {
            *place = byte;
        }
        drop(parse(&Bytes::from(frame)));
    }

    #[test]
    fn data_survives(stream in 0_u64..1 << 53, data in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let text = format!(
            r#"{{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{{"streamId":{stream},"data":"{}"}}}}"#,
            BASE64.encode(&data)
        );
        match parse(&bytes(&text)) {
            Ok(ClientMessage::StreamData { stream: id, data: decoded }) => {
                prop_assert_eq!(id, stream);
                prop_assert_eq!(&decoded[..], &data[..]);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn an_id_is_echoed_as_written(id in prop_oneof![
        any::<i64>().prop_map(|id| id.to_string()),
        "[a-z0-9 ]{0,40}".prop_map(|id| format!("\"{id}\"")),
    ]) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        prop_assert_eq!(describe(&text), format!("call {id} m {{}}"));
    }
}
