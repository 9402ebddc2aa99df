//! Files by path, open files and the environment: what each method asks of the
//! guest and answers.

use serde_json::{Value, json};
use tombolo_guest_proto::v1;
use tombolo_testkit::eventually;

use super::harness::{Client, Harness};
use crate::guest::Dialect;
use crate::rpc::SessionEnd;

struct Case {
    method: &'static str,
    params: Value,
    /// The guest's method and request.
    asks: (&'static str, String),
    answer: Value,
}

fn case(
    method: &'static str,
    params: Value,
    guest: &'static str,
    request: &impl std::fmt::Debug,
    answer: Value,
) -> Case {
    Case {
        method,
        params,
        asks: (guest, format!("{request:?}")),
        answer,
    }
}

fn file_info() -> Value {
    let epoch = "1970-01-01T00:00:00.000Z";
    json!({"isFile": true, "isDirectory": false, "isSymlink": false, "size": 5,
        "mtime": "2026-01-01T00:00:00.000Z", "atime": epoch, "birthtime": epoch, "ctime": epoch,
        "mode": 0o100_644, "dev": 0, "ino": 0, "nlink": 0, "uid": 0, "gid": 0, "rdev": 0,
        "blksize": 0, "blocks": 0, "isBlockDevice": false, "isCharDevice": false,
        "isFifo": false, "isSocket": false})
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn path_cases() -> Vec<Case> {
    let path = || "/x".to_owned();
    let two = || v1::TwoPathsRequest {
        from: "a".into(),
        to: "b".into(),
    };
    let noon = 1_767_225_600_000_000_000;
    vec![
        case(
            "remove",
            json!({"path": "/x"}),
            "remove",
            &v1::RemoveRequest {
                path: path(),
                recursive: false,
            },
            json!(null),
        ),
        case(
            "remove",
            json!({"path": "/x", "options": {"recursive": true}}),
            "remove",
            &v1::RemoveRequest {
                path: path(),
                recursive: true,
            },
            json!(null),
        ),
        case(
            "mkdir",
            json!({"path": "/x", "options": null}),
            "mkdir",
            &v1::MkdirRequest {
                path: path(),
                recursive: false,
                mode: None,
            },
            json!(null),
        ),
        case(
            "mkdir",
            json!({"path": "/x", "options": {"recursive": true, "mode": 0o700}}),
            "mkdir",
            &v1::MkdirRequest {
                path: path(),
                recursive: true,
                mode: Some(0o700),
            },
            json!(null),
        ),
        case(
            "rename",
            json!({"oldPath": "a", "newPath": "b"}),
            "rename",
            &two(),
            json!(null),
        ),
        case(
            "stat",
            json!({"path": "/x"}),
            "stat",
            &v1::StatRequest {
                path: path(),
                follow_symlinks: true,
            },
            file_info(),
        ),
        case(
            "lstat",
            json!({"path": "/x"}),
            "stat",
            &v1::StatRequest {
                path: path(),
                follow_symlinks: false,
            },
            file_info(),
        ),
        case(
            "chmod",
            json!({"path": "/x", "mode": 0o755}),
            "chmod",
            &v1::ChmodRequest {
                path: path(),
                mode: 0o755,
            },
            json!(null),
        ),
        case(
            "chown",
            json!({"path": "/x", "uid": 5, "gid": null}),
            "chown",
            &v1::ChownRequest {
                path: path(),
                uid: Some(5),
                gid: None,
            },
            json!(null),
        ),
        case(
            "copyFile",
            json!({"fromPath": "a", "toPath": "b"}),
            "copy_file",
            &two(),
            json!(null),
        ),
        case(
            "link",
            json!({"target": "a", "path": "b"}),
            "link",
            &two(),
            json!(null),
        ),
        case(
            "symlink",
            json!({"target": "a", "path": "b", "options": {"type": "dir"}}),
            "symlink",
            &two(),
            json!(null),
        ),
        case(
            "readLink",
            json!({"path": "/x"}),
            "read_link",
            &v1::PathRequest { path: path() },
            json!("target"),
        ),
        case(
            "realPath",
            json!({"path": "/x"}),
            "real_path",
            &v1::PathRequest { path: path() },
            json!("/real"),
        ),
        case(
            "truncate",
            json!({"name": "/x", "length": null}),
            "truncate",
            &v1::TruncateRequest {
                path: path(),
                length: 0,
            },
            json!(null),
        ),
        case(
            "truncate",
            json!({"name": "/x", "length": 9}),
            "truncate",
            &v1::TruncateRequest {
                path: path(),
                length: 9,
            },
            json!(null),
        ),
        case(
            "umask",
            json!({"mask": null}),
            "umask",
            &v1::UmaskRequest { mask: None },
            json!(0o22),
        ),
        case(
            "umask",
            json!({"mask": 0o77}),
            "umask",
            &v1::UmaskRequest { mask: Some(0o77) },
            json!(0o22),
        ),
        case(
            "utime",
            json!({"path": "/x", "atime": "2026-01-01T00:00:00.000Z", "mtime": 1.5}),
            "utime",
            &v1::UtimeRequest {
                path: path(),
                atime_nanos: noon,
                mtime_nanos: 1_500_000_000,
            },
            json!(null),
        ),
        case(
            "makeTempDir",
            json!({}),
            "make_temp",
            &v1::MakeTempRequest {
                directory: true,
                ..Default::default()
            },
            json!("/tmp/x"),
        ),
        case(
            "makeTempFile",
            json!({"options": {"dir": "d", "prefix": "p", "suffix": "s"}}),
            "make_temp",
            &v1::MakeTempRequest {
                directory: false,
                dir: "d".into(),
                prefix: "p".into(),
                suffix: "s".into(),
            },
            json!("/tmp/x"),
        ),
    ]
}

fn env_cases() -> Vec<Case> {
    let key = || v1::EnvKey { key: "A".into() };
    vec![
        case(
            "envGet",
            json!({"key": "A"}),
            "get_env",
            &key(),
            json!(null),
        ),
        case(
            "envSet",
            json!({"key": "A", "value": "1"}),
            "set_env",
            &v1::EnvEntry {
                key: "A".into(),
                value: "1".into(),
            },
            json!(null),
        ),
        case(
            "envToObject",
            json!({}),
            "all_env",
            &v1::Empty {},
            json!({"A": "1"}),
        ),
        case(
            "envDelete",
            json!({"key": "A"}),
            "delete_env",
            &key(),
            json!(null),
        ),
    ]
}

fn listing_cases() -> Vec<Case> {
    let regex = |source: &str, flags: &str| v1::Regex {
        source: source.into(),
        flags: flags.into(),
    };
    let walk = v1::WalkRequest {
        path: "/x".into(),
        include_files: true,
        include_dirs: true,
        include_symlinks: true,
        canonicalize: true,
        ..Default::default()
    };
    let narrow = v1::WalkRequest {
        path: "/x".into(),
        max_depth: Some(3),
        follow_symlinks: true,
        has_exts: true,
        has_match: true,
        r#match: vec![regex("a", "i")],
        skip: vec![regex("b", "")],
        ..Default::default()
    };
    let params = json!({"path": "/x", "maxDepth": 3, "includeFiles": false, "includeDirs": false,
        "includeSymlinks": false, "followSymlinks": true, "canonicalize": false, "exts": [],
        "match": [{"source": "a", "flags": "i"}], "skip": [{"source": "b"}]});
    let glob = v1::ExpandGlobRequest {
        glob: "*".into(),
        include_dirs: true,
        canonicalize: true,
        extended: true,
        globstar: true,
        ..Default::default()
    };
    vec![
        case(
            "walk",
            json!({"path": "/x", "maxDepth": null}),
            "walk",
            &walk,
            json!([]),
        ),
        case("walk", params, "walk", &narrow, json!([])),
        case(
            "expandGlob",
            json!({"glob": "*", "root": null}),
            "expand_glob",
            &glob,
            json!([]),
        ),
        case(
            "readDir",
            json!({"path": "/x"}),
            "read_dir",
            &v1::PathRequest { path: "/x".into() },
            json!([]),
        ),
    ]
}

#[tokio::test]
async fn every_method_asks_the_guest_and_answers() {
    // Python's answers to walks are the simplest to compare.
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    for Case {
        method,
        params,
        asks,
        answer,
    } in [path_cases(), env_cases(), listing_cases()].concat()
    {
        let got = client.ok(method, params.clone()).await;
        assert_eq!(got, answer, "{method} {params}");
        let asked = harness.agent.calls(asks.0).pop();
        assert_eq!(asked.as_ref(), Some(&asks.1), "{method} {params}");
    }
}

impl Clone for Case {
    fn clone(&self) -> Self {
        Self {
            method: self.method,
            params: self.params.clone(),
            asks: self.asks.clone(),
            answer: self.answer.clone(),
        }
    }
}

#[tokio::test]
async fn every_method_tells_the_guests_error() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for Case {
        method,
        params,
        asks,
        ..
    } in [path_cases(), env_cases(), listing_cases()].concat()
    {
        harness.agent.fail(asks.0, 2);
        let error = client.error(method, params).await;
        assert_eq!(error["constructorName"], "NotFound", "{method}");
        assert_eq!(error["code"], "ENOENT", "{method}");
        let expected = format!("No such file or directory (os error 2): {} '/x'", asks.0);
        assert_eq!(error["message"], expected, "{method}");
    }
}

#[tokio::test]
async fn times_that_are_none_are_refused() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let params = json!({"path": "/x", "atime": "noon", "mtime": 0});
    assert_eq!(
        client.error("utime", params).await["constructorName"],
        "RangeError"
    );
    assert_eq!(harness.agent.calls("utime"), [""; 0]);
}

#[tokio::test]
async fn files_are_read_whole() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| n.to_le_bytes()[0]).collect();
    let put = |path: &str, bytes: Vec<u8>| harness.agent.put_file(path, bytes);
    put("/empty", Vec::new());
    put("/text", "h\"é\n€".into());
    put("/bytes", vec![0xff, 0, b'a']);
    put("/large", large.clone());
    let cases = [
        ("readFile", "/empty", ""),
        ("readTextFile", "/empty", ""),
        ("readTextFile", "/text", "h\"é\n€"),
        ("readTextFile", "/bytes", "\u{fffd}\0a"),
        ("readFile", "/bytes", "/wBh"),
    ];
    for (method, path, expected) in cases {
        assert_eq!(
            client
                .ok(method, json!({"path": path, "options": {}}))
                .await,
            expected,
            "{method} {path}"
        );
    }
    let read = client.ok("readFile", json!({"path": "/large"})).await;
    let read =
        base64::Engine::decode(&base64::prelude::BASE64_STANDARD, read.as_str().unwrap()).unwrap();
    assert!(read == large);
    assert_eq!(
        client.error("readFile", json!({"path": "/none"})).await["constructorName"],
        "NotFound"
    );
}

#[tokio::test]
async fn an_answer_larger_than_the_client_takes_is_an_error() {
    let limits = crate::rpc::RpcLimits {
        reply_len_max: 10_000,
        ..crate::rpc::RpcLimits::default()
    };
    let harness = Harness::with_limits(Dialect::JavaScript, limits).await;
    harness.agent.put_file("/f", vec![7; 10_000]);
    let mut client = harness.connect().await;
    let error = client.error("readFile", json!({"path": "/f"})).await;
    assert_eq!(error["code"], "EMSGSIZE");
}

async fn open(client: &mut Client) -> Value {
    client
        .ok("open", json!({"path": "/f", "options": {"write": true}}))
        .await["fileHandleId"]
        .take()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn an_open_file_does_everything() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let file = open(&mut client).await;
    let handle = file.as_u64().unwrap();
    let at = v1::HandleRequest { handle };
    let noon = "2026-01-01T00:00:00.000Z";
    let nanos = 1_767_225_600_000_000_000;
    let cases = [
        case(
            "fileRead",
            json!({"fileHandleId": file, "length": 3}),
            "handle_read",
            &v1::HandleReadRequest { handle, length: 3 },
            json!({"data": "eHh4"}),
        ),
        case(
            "fileRead",
            json!({"fileHandleId": file, "length": 0}),
            "handle_read",
            &v1::HandleReadRequest { handle, length: 0 },
            json!({"data": ""}),
        ),
        case(
            "fileWrite",
            json!({"fileHandleId": file, "data": "aGk="}),
            "handle_write",
            &v1::HandleWriteRequest {
                handle,
                data: "hi".into(),
            },
            json!({"bytesWritten": 2}),
        ),
        case(
            "fileWrite",
            json!({"fileHandleId": file, "data": ""}),
            "handle_write",
            &v1::HandleWriteRequest {
                handle,
                data: "".into(),
            },
            json!({"bytesWritten": 0}),
        ),
        case(
            "fileSeek",
            json!({"fileHandleId": file, "offset": -4, "whence": 2}),
            "handle_seek",
            &v1::HandleSeekRequest {
                handle,
                offset: -4,
                whence: 2,
            },
            json!({"position": 7}),
        ),
        case(
            "fileSeek",
            json!({"fileHandleId": file, "offset": "4", "whence": 0}),
            "handle_seek",
            &v1::HandleSeekRequest {
                handle,
                offset: 4,
                whence: 0,
            },
            json!({"position": 7}),
        ),
        case(
            "fileTruncate",
            json!({"fileHandleId": file, "len": 3}),
            "handle_truncate",
            &v1::HandleTruncateRequest { handle, length: 3 },
            json!(null),
        ),
        case(
            "fileTruncate",
            json!({"fileHandleId": file, "size": 4}),
            "handle_truncate",
            &v1::HandleTruncateRequest { handle, length: 4 },
            json!(null),
        ),
        case(
            "fileTruncate",
            json!({"fileHandleId": file, "size": null}),
            "handle_truncate",
            &v1::HandleTruncateRequest { handle, length: 0 },
            json!(null),
        ),
        case(
            "fileStat",
            json!({"fileHandleId": file}),
            "handle_stat",
            &at,
            file_info(),
        ),
        case(
            "fileSync",
            json!({"fileHandleId": file}),
            "handle_sync",
            &v1::HandleSyncRequest {
                handle,
                data_only: false,
            },
            json!(null),
        ),
        case(
            "fileSyncData",
            json!({"fileHandleId": file}),
            "handle_sync",
            &v1::HandleSyncRequest {
                handle,
                data_only: true,
            },
            json!(null),
        ),
        case(
            "fileUtime",
            json!({"fileHandleId": file, "atime": noon, "mtime": 2}),
            "handle_utime",
            &v1::HandleUtimeRequest {
                handle,
                atime_nanos: nanos,
                mtime_nanos: 2_000_000_000,
            },
            json!(null),
        ),
        case(
            "fileUnlock",
            json!({"fileHandleId": file}),
            "handle_unlock",
            &at,
            json!(null),
        ),
        case(
            "fileClose",
            json!({"fileHandleId": file}),
            "handle_close",
            &at,
            json!(null),
        ),
    ];
    for Case {
        method,
        params,
        asks,
        answer,
    } in cases
    {
        assert_eq!(
            client.ok(method, params.clone()).await,
            answer,
            "{method} {params}"
        );
        assert_eq!(
            harness.agent.calls(asks.0).pop(),
            Some(asks.1),
            "{method} {params}"
        );
    }
    let closed = client
        .error("fileClose", json!({"fileHandleId": file}))
        .await;
    assert_eq!(closed["constructorName"], "BadResource");
    let file = open(&mut client).await;
    let params = json!({"fileHandleId": file, "offset": 0, "whence": 3});
    let whence = client.call("fileSeek", params).await;
    assert_eq!(whence["error"]["code"], -32602);
}

#[tokio::test]
async fn opening_has_the_defaults_of_deno() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    client.ok("open", json!({"path": "/f"})).await;
    client.ok("create", json!({"path": "/f"})).await;
    let all = json!({"read": false, "write": true, "append": true, "truncate": true, "create": true,
        "createNew": true, "mode": 0o600});
    client
        .ok("open", json!({"path": "/f", "options": all}))
        .await;
    let base = || v1::OpenRequest {
        path: "/f".into(),
        read: true,
        ..Default::default()
    };
    let expected = [
        base(),
        v1::OpenRequest {
            write: true,
            truncate: true,
            create: true,
            ..base()
        },
        v1::OpenRequest {
            read: false,
            write: true,
            append: true,
            truncate: true,
            create: true,
            create_new: true,
            mode: Some(0o600),
            ..base()
        },
    ];
    assert_eq!(
        harness.agent.calls("open"),
        expected.map(|request| format!("{request:?}"))
    );
}

#[tokio::test]
async fn the_end_of_a_file_is_null_except_for_python() {
    for (dialect, end) in [
        (Dialect::JavaScript, json!(null)),
        (Dialect::Native, json!(null)),
        (Dialect::Python, json!("")),
    ] {
        let harness = Harness::new(dialect).await;
        let mut client = harness.connect().await;
        open(&mut client).await;
        // The second file of the test's agent is at its end.
        let file = open(&mut client).await;
        let read = client
            .ok("fileRead", json!({"fileHandleId": file, "length": 8}))
            .await;
        assert_eq!(read, json!({"data": end}), "{dialect:?}");
    }
}

#[tokio::test]
async fn a_file_belongs_to_its_connection() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut owner = harness.connect().await;
    let mut other = harness.connect().await;
    let file = open(&mut owner).await;
    for method in [
        "fileStat",
        "fileClose",
        "fileSync",
        "fileUnlock",
        "fileLock",
    ] {
        let error = other.error(method, json!({"fileHandleId": file})).await;
        assert_eq!(
            (&error["constructorName"], &error["code"]),
            (&json!("BadResource"), &json!("EBADF")),
            "{method}"
        );
    }
    owner.ok("fileStat", json!({"fileHandleId": file})).await;
}

#[tokio::test]
async fn writes_to_one_file_keep_their_order() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let file = open(&mut client).await;
    let mut calls = Vec::new();
    for n in 0..50_u8 {
        let data = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [n]);
        calls.push(
            client
                .request("fileWrite", json!({"fileHandleId": file, "data": data}))
                .await,
        );
    }
    calls.push(
        client
            .request("fileClose", json!({"fileHandleId": file}))
            .await,
    );
    for call in calls {
        assert!(client.answer(call).await["result"].get("ok").is_some());
    }
    let handle = file.as_u64().unwrap();
    let expected: Vec<_> = (0..50_u8)
        .map(|n| {
            format!(
                "{:?}",
                v1::HandleWriteRequest {
                    handle,
                    data: vec![n].into()
                }
            )
        })
        .collect();
    assert_eq!(harness.agent.calls("handle_write"), expected);
}

#[tokio::test]
async fn files_are_closed_with_their_connection() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for _ in 0..20 {
        open(&mut client).await;
    }
    client.ok("fileClose", json!({"fileHandleId": 1})).await;
    // Some are still being opened when the client leaves.
    for _ in 0..20 {
        client.request("open", json!({"path": "/f"})).await;
    }
    drop(client);
    harness.end().await;
    let is_clean = async || {
        let state = &harness.agent.state;
        let is_clean = state.open_handles.lock().is_empty();
        is_clean.then_some(())
    };
    eventually("all files are closed", is_clean).await;
}

#[tokio::test]
async fn a_lock_holds_up_nothing_and_is_given_up_with_the_connection() {
    let mut harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    let file = open(&mut client).await;
    client
        .request("fileLock", json!({"fileHandleId": file, "exclusive": true}))
        .await;
    let mut waiters = harness.agent.state.lock_waiters.subscribe();
    tombolo_testkit::within(
        "the lock is asked for",
        waiters.wait_for(|waiters| *waiters == 1),
    )
    .await
    .unwrap();
    // Neither other calls nor calls on the same file wait for it.
    client.ok("fileStat", json!({"fileHandleId": file})).await;
    client.ok("stat", json!({"path": "/"})).await;
    assert!(harness.agent.calls("handle_lock")[0].contains("exclusive: true"));
    drop(client);
    assert_eq!(harness.end().await, SessionEnd::ConnectionLost);
    tombolo_testkit::within(
        "the lock is given up",
        waiters.wait_for(|waiters| *waiters == 0),
    )
    .await
    .unwrap();
}
