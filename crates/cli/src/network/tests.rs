//! Command lines of network and secrets: what is sent for them, and what is told
//! of those that are wrong.

use serde_json::json;

use super::*;

/// Flags by a word of their name.
type Flags<'a> = &'a [(&'a str, &'a str)];

fn environment() -> Environment {
    Environment::of(&[("KEY", "real-value"), ("LINES", "a\nb"), ("EMPTY", "")])
}

/// Reads a command line of `--allow-net`, `--secret` and `--secret-file`.
fn read(flags: Flags<'_>) -> Outcome<Network> {
    let of = |name: &str| -> Vec<String> {
        let given = flags.iter().filter(|(flag, _)| *flag == name);
        given.map(|(_, value)| (*value).to_owned()).collect()
    };
    let args = NetworkArgs {
        allow_net: of("net"),
        secret: of("secret"),
        secret_file: of("file"),
        egress_policy: of("policy").first().map(PathBuf::from),
    };
    let variables = of("env").into_iter().map(|name| (name, String::new()));
    Network::read(&args, &variables.collect(), &environment())
}

/// What would be sent, with values, or the report of what is wrong.
fn sent(flags: Flags<'_>) -> String {
    match read(flags) {
        Err(failure) => {
            assert_eq!(failure.code(), ExitCode::Usage, "{}", failure.report());
            failure.report()
        }
        Ok(network) => {
            assert!(!format!("{network:?}").contains("real-value"));
            let secrets = network.secrets.into_iter().map(|(name, secret)| {
                let value = secret.value.expose().to_owned();
                (name, (secret.hosts, value))
            });
            let secrets: BTreeMap<_, _> = secrets.collect();
            json!([network.allow_net, secrets]).to_string()
        }
    }
}

#[test]
fn what_is_typed_becomes_what_is_sent() {
    let cases: &[(Flags<'_>, &str)] = &[
        (&[], "[[],{}]"),
        (&[("net", "*")], "[null,{}]"),
        (
            &[
                ("net", "a.com"),
                ("net", "*.b.com:443"),
                ("net", "10.1.0.0/16"),
                ("net", "[::1]:80"),
            ],
            r#"[["a.com","*.b.com:443","10.1.0.0/16","[::1]:80"],{}]"#,
        ),
        (
            &[("net", "a.com"), ("secret", "KEY@a.com")],
            r#"[["a.com"],{"KEY":[["a.com"],"real-value"]}]"#,
        ),
        (
            &[("net", "*"), ("secret", "KEY@A.com,*.b.com:8443")],
            r#"[null,{"KEY":[["a.com","*.b.com:8443"],"real-value"]}]"#,
        ),
        // A host of the list lies in what the secret is for.
        (
            &[("net", "x.b.com:443"), ("secret", "KEY@*.b.com")],
            r#"[["x.b.com:443"],{"KEY":[["*.b.com"],"real-value"]}]"#,
        ),
    ];
    for (flags, expected) in cases {
        assert_eq!(sent(flags), *expected, "{flags:?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_the_next_step() {
    let cases: &[(Flags<'_>, &str)] = &[
        (&[("net", "*"), ("net", "a.com")], "leave the others out"),
        (&[("net", "https://a.com")], "--allow-net https://a.com"),
        (&[("net", "")], "an entry must not be empty"),
        (&[("secret", "KEY@a.com")], "hint: add --allow-net a.com"),
        (
            &[("net", "a.com:80"), ("secret", "KEY@a.com")],
            "hint: add --allow-net a.com",
        ),
        (
            &[("net", "*.a.com"), ("secret", "KEY@a.com")],
            "hint: add --allow-net a.com",
        ),
        (
            &[("net", "a.com"), ("secret", "KEY")],
            "hint: write KEY@HOST",
        ),
        (
            &[("net", "a.com"), ("secret", "KEY@")],
            "an entry must not be empty",
        ),
        (
            &[("net", "a.com"), ("secret", "GONE@a.com")],
            "hint: export GONE first",
        ),
        (
            &[("net", "a.com"), ("secret", "EMPTY@a.com")],
            "hint: export EMPTY first",
        ),
        (
            &[("net", "a.com"), ("secret", "LINES@a.com")],
            "control character 0x0a",
        ),
        (
            &[("net", "a.com"), ("secret", "1K@a.com")],
            "the name of a secret",
        ),
        (&[("net", "*"), ("secret", "KEY@10.0.0.1")], "names only"),
        (
            &[
                ("net", "*"),
                ("secret", "KEY@a.com"),
                ("secret", "KEY@b.com"),
            ],
            "given twice",
        ),
        (
            &[("net", "*"), ("secret", "KEY@a.com"), ("env", "KEY")],
            "both a secret and a variable",
        ),
        (
            &[("net", "*"), ("file", "KEY@a.com")],
            "write --secret-file NAME=PATH@HOST",
        ),
        (
            &[("net", "*"), ("file", "A=-@a.com"), ("file", "B=-@a.com")],
            "can be read once",
        ),
    ];
    for (flags, expected) in cases {
        let report = sent(flags);
        assert!(report.contains(expected), "{flags:?}: {report}");
    }
}

#[test]
fn a_value_on_the_command_line_is_refused_and_not_repeated() {
    for typed in ["KEY=real-value@a.com", "KEY=real-value"] {
        let report = sent(&[("net", "a.com"), ("secret", typed)]);
        assert!(report.contains("export KEY"), "{report}");
        assert!(!report.contains("real-value"), "{report}");
    }
}

#[test]
fn a_value_is_read_from_a_file_without_the_end_of_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let long = "v".repeat(SECRET_LEN_MAX);
    let too_long = "v".repeat(SECRET_LEN_MAX + 10);
    let cases: &[(&[u8], Result<&str, &str>)] = &[
        (b"real-value", Ok("real-value")),
        (b"real-value\n", Ok("real-value")),
        (b"real-value\r\n", Ok("real-value")),
        (b"real-value\n\n", Err("control character 0x0a")),
        (b"\n", Err("empty")),
        (b"\xff\xfe", Err("not UTF-8")),
        (long.as_bytes(), Ok(&long)),
        (too_long.as_bytes(), Err("at most 65536")),
    ];
    for (content, expected) in cases {
        // Its name has what ends a path in the flag.
        let path = directory.path().join("a@b=c");
        fs_err::write(&path, content).unwrap();
        let flag = format!("KEY={}@a.com", path.display());
        let sent = sent(&[("net", "a.com"), ("file", &flag)]);
        match expected {
            Ok(value) => assert_eq!(
                sent,
                json!([["a.com"], {"KEY": [["a.com"], value]}]).to_string()
            ),
            Err(words) => assert!(sent.contains(words), "{sent}"),
        }
    }
    let missing = read(&[("net", "a.com"), ("file", "KEY=/nowhere/at/all@a.com")]);
    let report = missing.unwrap_err().report();
    assert!(report.contains("the secret KEY cannot be read"), "{report}");
}

#[test]
fn a_document_and_flags_do_not_say_the_same_twice() {
    let directory = tempfile::tempdir().unwrap();
    let with_list = json!({
        "version": 1, "allow_net": ["a.com"], "secrets": {"KEY": {"hosts": ["a.com"]}},
    });
    let without = json!({"version": 1, "secrets": {"KEY": {"hosts": ["a.com"]}}});
    let cases: [(&Value, Flags<'_>, &str); 9] = [
        (
            &with_list,
            &[("secret", "KEY")],
            r#"[null,{"KEY":[[],"real-value"]}]"#,
        ),
        (&with_list, &[("net", "b.com")], "leave one of them out"),
        (
            &with_list,
            &[("secret", "KEY@a.com")],
            "leave the hosts out here",
        ),
        (
            &with_list,
            &[("secret", "LINES@b.com")],
            "add \"b.com\" to allow_net in the document",
        ),
        (&without, &[], "--allow-net '*'"),
        (
            &without,
            &[("net", "a.com")],
            "hint: add --secret KEY, or --secret-file KEY=PATH",
        ),
        (
            &without,
            &[("net", "*"), ("secret", "KEY")],
            r#"[null,{"KEY":[[],"real-value"]}]"#,
        ),
        (
            &without,
            &[("net", "a.com"), ("secret", "KEY")],
            r#"[["a.com"],{"KEY":[[],"real-value"]}]"#,
        ),
        (
            &json!({"version": 1, "rules": []}),
            &[],
            "is no policy document",
        ),
    ];
    let path = directory.path().join("policy.json");
    let path_text = path.to_str().unwrap();
    for (document, flags, expected) in cases {
        fs_err::write(&path, document.to_string()).unwrap();
        let mut all = vec![("policy", path_text)];
        all.extend_from_slice(flags);
        let sent = sent(&all);
        assert!(sent.contains(expected), "{document} {flags:?}: {sent}");
    }
}

/// The document that the reference shows is one.
#[test]
fn the_reference_shows_a_policy_that_is_valid() {
    let page = include_str!("../../../../docs/reference/network.md");
    let mut blocks = page.split("```json").skip(1);
    let document = blocks.next().and_then(|block| block.split("```").next());
    let document: PolicyDocument = serde_json::from_str(document.unwrap()).unwrap();
    let operator = tombolo_policy::OperatorRules::closed();
    let policy = tombolo_policy::Policy::compile(&document, &operator, &BTreeMap::new());
    assert_eq!(policy.unwrap().warnings(), []);
}
