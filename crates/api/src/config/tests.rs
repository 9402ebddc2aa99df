//! Both dialects, both encodings, and everything that is refused.

use base64::engine::general_purpose::STANDARD as ENCODE;
use proptest::prelude::*;

use super::*;

fn decode(json: &str) -> Result<CreateConfig, DecodeConfigError> {
    CreateConfig::decode_header(ENCODE.encode(json).as_bytes())
}

/// Every field that is set, as one comparable text.
fn check(json: &str, expected: &str) {
    let config = decode(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    let shown = format!("{config:?}");
    let blank = format!("{:?}", CreateConfig::default());
    assert!(
        shown.contains(expected),
        "{json}\n shows {shown}\n lacks {expected}"
    );
    assert!(
        expected.is_empty() || !blank.contains(expected),
        "{expected}"
    );
}

#[test]
fn both_dialects_are_read() {
    check(
        r#"{"memory_mb":1280,"volumes":[]}"#,
        "memory_mib: Some(1280)",
    );
    check(r#"{"memory_mb":1280.0}"#, "memory_mib: Some(1280)");
    check(
        r#"{"memory_mb":1280,"debug":false}"#,
        "memory_mib: Some(1280)",
    );
    check(
        r#"{"stop_at_ms":1795223215824}"#,
        "stop_at: Some(UnixMillis(1795223215824))",
    );
    check(r#"{"timeout":"5m"}"#, r#"timeout: Some("5m")"#);
    check(r#"{"labels":{"job":"t"}}"#, r#"labels: {"job": "t"}"#);
    check(r#"{"env":{"A":"b"}}"#, r#"env: {"A": "b"}"#);
    check(r#"{"root":{"volume":"snap1"}}"#, r#"root: Some("snap1")"#);
    let mounted = r#"volumes: [VolumeMount { volume: "v1", path: "/data" }]"#;
    check(r#"{"volumes":[{"volume":"v1","path":"/data"}]}"#, mounted);
    check(r#"{"volumes":{"/data":"v1"}}"#, mounted);
    check(r#"{"allow_net":[]}"#, "allow_net: Some([])");
    check(r#"{"ssh":true}"#, "ssh: true");
    check(r#"{"port":8000}"#, "port: Some(8000)");
    check(r#"{"region":"ams"}"#, r#"region: Some("ams")"#);
}

#[test]
fn nulls_are_absent() {
    let config = decode(r#"{"memory_mb":null,"labels":null,"ssh":null,"root":null}"#).unwrap();
    assert_eq!(
        format!("{config:?}"),
        format!("{:?}", CreateConfig::default())
    );
}

#[test]
fn latin_1_is_read_when_it_is_not_utf_8() {
    let latin = b"{\"labels\":{\"name\":\"caf\xe9\"}}";
    let config = CreateConfig::decode_header(ENCODE.encode(latin).as_bytes()).unwrap();
    assert_eq!(config.labels["name"], "café");
    let config = decode(r#"{"labels":{"name":"café ☕"}}"#).unwrap();
    assert_eq!(config.labels["name"], "café ☕");
}

#[test]
fn padding_does_not_matter() {
    for json in ["{}", "{ }", "{  }"] {
        let encoded = ENCODE.encode(json);
        let bare = encoded.trim_end_matches('=');
        assert!(CreateConfig::decode_header(bare.as_bytes()).is_ok());
    }
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (
            r#"{"memory_mb":"1GB"}"#,
            r#""memory_mb" is not a whole number"#,
        ),
        (
            r#"{"memory_mb":1.5}"#,
            r#""memory_mb" is not a whole number"#,
        ),
        (r#"{"stop_at_ms":1e300}"#, r#""stop_at_ms" is not a whole"#),
        (r#"{"timeout":5}"#, r#""timeout" is not a text"#),
        (
            r#"{"labels":{"a":1}}"#,
            r#""labels" is not an object of texts"#,
        ),
        (r#"{"labels":[]}"#, r#""labels" is not an object of texts"#),
        (r#"{"root":"v"}"#, r#""root" is not {volume: text}"#),
        (r#"{"volumes":7}"#, r#""volumes" is not a list"#),
        (r#"{"allow_net":"*"}"#, r#""allow_net" is not a list"#),
        (
            r#"{"secrets":{"K":"real"}}"#,
            r#""secrets" is not an object"#,
        ),
        (
            r#"{"secrets":{"K":{"hosts":["a"],"value":"x","slots":[]}}}"#,
            r#""secrets" is not an object"#,
        ),
        (r#"{"ssh":1}"#, r#""ssh" is not true or false"#),
        (r#"{"colour":1}"#, r#"unknown key "colour""#),
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
    ];
    for (json, expected) in cases {
        let error = decode(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let error = CreateConfig::decode_header(b"###").unwrap_err();
    assert_eq!(error.to_string(), "the configuration is not base64");
}

#[test]
fn what_the_header_has_no_room_for_is_named_on_both_sides() {
    let value = |len: usize| SecretValue::new("x".repeat(len)).unwrap();
    let secret = |len| NewSecret {
        hosts: Vec::new(),
        value: value(len),
    };
    let secrets = |last: usize| NewSandbox {
        memory_mb: Some(2048),
        secrets: BTreeMap::from([
            ("A".to_owned(), secret(64 * 1024)),
            ("B".to_owned(), secret(last)),
        ]),
        ..NewSandbox::default()
    };
    let policy = NewSandbox {
        egress_policy: Some(serde_json::json!({ "version": 1, "x": "x".repeat(100 * 1024) })),
        ..NewSandbox::default()
    };
    let fits = secrets(32 * 1024 - 100);
    let header = fits.to_header().unwrap();
    assert!(header.len() > CONFIG_HEADER_LEN_MAX - 200);
    assert!(CreateConfig::decode_header(header.as_bytes()).is_ok());
    for (request, part) in [(secrets(32 * 1024), "secrets"), (policy, "egress_policy")] {
        let error = request.to_header().unwrap_err().to_string();
        assert!(
            error.contains(&format!("largest part is `{part}`")),
            "{error}"
        );
        let json = serde_json::to_vec(&request).unwrap();
        let read = CreateConfig::decode_header(BASE64.encode(json).as_bytes());
        let said = read.unwrap_err().to_string();
        assert!(said.starts_with(&error), "{said}");
        assert!(said.contains("afterwards") && said.len() < 500, "{said}");
    }
    for unreadable in [
        vec![b'{'; CONFIG_HEADER_LEN_MAX],
        vec![0xe9; CONFIG_HEADER_LEN_MAX],
    ] {
        let read = CreateConfig::decode_header(BASE64.encode(unreadable).as_bytes());
        let said = read.unwrap_err().to_string();
        assert!(said.contains("may have. Create"), "{said}");
    }
}

#[test]
fn secrets_are_never_quoted() {
    let spoilt = [
        r#"{"secrets":{"K":{"hosts":["a"],"value":"real"}}}"#,
        r#"{"secrets":{"K":{"hosts":"a","value":"real"}}}"#,
        r#"{"secrets":{"K":{"hosts":["a"],"value":["real"]}}}"#,
        r#"{"secrets":{"K":{"hosts":["a"],"value":"real"}}"#,
        r#"["real"]"#,
        r#""real""#,
        r#"{"secrets":"real"}"#,
        r#"{"secrets":{"K":{"hosts":["a"],"value":"real\n"}}}"#,
        r#"{"secrets":{"K":{"hosts":["a"],"value":"x","in":["real"]}}}"#,
    ];
    for json in spoilt {
        let shown = match decode(json) {
            Ok(config) => format!("{config:?}"),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("{error} {error:?} {cause:?}")
            }
        };
        assert!(!shown.contains("real"), "{json} shows {shown}");
    }
}

#[test]
fn our_own_request_is_understood() {
    let request = NewSandbox {
        memory_mb: Some(2048),
        stop_at_ms: Some(UnixMillis(7)),
        env: BTreeMap::from([("A".to_owned(), "ü".to_owned())]),
        allow_net: Some(vec!["a.example".to_owned()]),
        secrets: BTreeMap::from([(
            "K".to_owned(),
            NewSecret {
                hosts: vec!["b.example".to_owned()],
                value: SecretValue::new("real".to_owned()).unwrap(),
            },
        )]),
        egress_policy: Some(serde_json::json!({ "version": 1 })),
        ..NewSandbox::default()
    };
    assert!(!format!("{request:?}").contains("real"));
    let config = CreateConfig::decode_header(request.to_header().unwrap().as_bytes()).unwrap();
    assert_eq!(config.memory_mib, Some(2048));
    assert_eq!(config.stop_at, Some(UnixMillis(7)));
    assert_eq!(config.env, request.env);
    assert_eq!(config.allow_net, request.allow_net);
    assert_eq!(config.egress_policy, request.egress_policy);
    let secret = &config.secrets["K"];
    assert_eq!(secret.hosts, ["b.example"]);
    assert_eq!(secret.value.as_ref().unwrap().expose(), "real");
}

#[test]
fn a_value_that_can_be_none_is_kept_as_that() {
    let json =
        r#"{"secrets":{"A":{"hosts":["a"],"value":""},"B":{"value":"x\r"},"C":{"value":"x"}}}"#;
    let config = decode(json).unwrap();
    let good: Vec<bool> = config
        .secrets
        .values()
        .map(|spec| spec.value.is_ok())
        .collect();
    assert_eq!(good, [false, false, true]);
    assert!(config.secrets["C"].hosts.is_empty());
}

proptest! {
    #[test]
    fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let raw = CreateConfig::decode_header(&bytes);
        let encoded = CreateConfig::decode_header(ENCODE.encode(&bytes).as_bytes());
        prop_assert!(raw.is_err() || bytes.len() % 4 != 1);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let is_object = text.trim_start().starts_with('{');
            prop_assert!(encoded.is_err() || is_object);
        }
    }
}
