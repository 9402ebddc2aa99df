//! Files by path, open files and the environment: what each method asks of the
//! guest and answers.

use serde_json::{Value, json};
use tombolo_guest_proto::v1;
use tombolo_testkit::eventually;

use super::harness::{Client, Harness};
use crate::guest::Dialect;
use crate::rpc::SessionEnd;

/// A method and its parameters, the guest's method and request, the answer.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const FILE_INFO: &str = r#"{"isFile": true, "isDirectory": false, "isSymlink": false, "size": 5,
    "mtime": "2026-01-01T00:00:00.000Z", "atime": "1970-01-01T00:00:00.000Z",
    "birthtime": "1970-01-01T00:00:00.000Z", "ctime": "1970-01-01T00:00:00.000Z",
    "mode": 33188, "dev": 0, "ino": 0, "nlink": 0, "uid": 0, "gid": 0, "rdev": 0,
    "blksize": 0, "blocks": 0, "isBlockDevice": false, "isCharDevice": false,
    "isFifo": false, "isSocket": false}"#;

const BY_PATH: &[Case] = &[
    (
        "remove",
        r#"{"path": "/x"}"#,
        "remove",
        r#"RemoveRequest { path: "/x", recursive: false }"#,
        "null",
    ),
    (
        "remove",
        r#"{"path": "/x", "options": {"recursive": true}}"#,
        "remove",
        r#"RemoveRequest { path: "/x", recursive: true }"#,
        "null",
    ),
    (
        "mkdir",
        r#"{"path": "/x", "options": null}"#,
        "mkdir",
        r#"MkdirRequest { path: "/x", recursive: false, mode: None }"#,
        "null",
    ),
    (
        "mkdir",
        r#"{"path": "/x", "options": {"recursive": true, "mode": 448}}"#,
        "mkdir",
        r#"MkdirRequest { path: "/x", recursive: true, mode: Some(448) }"#,
        "null",
    ),
    (
        "rename",
        r#"{"oldPath": "a", "newPath": "b"}"#,
        "rename",
        r#"TwoPathsRequest { from: "a", to: "b" }"#,
        "null",
    ),
    (
        "stat",
        r#"{"path": "/x"}"#,
        "stat",
        r#"StatRequest { path: "/x", follow_symlinks: true }"#,
        FILE_INFO,
    ),
    (
        "lstat",
        r#"{"path": "/x"}"#,
        "stat",
        r#"StatRequest { path: "/x", follow_symlinks: false }"#,
        FILE_INFO,
    ),
    (
        "chmod",
        r#"{"path": "/x", "mode": 493}"#,
        "chmod",
        r#"ChmodRequest { path: "/x", mode: 493 }"#,
        "null",
    ),
    (
        "chown",
        r#"{"path": "/x", "uid": 5, "gid": null}"#,
        "chown",
        r#"ChownRequest { path: "/x", uid: Some(5), gid: None }"#,
        "null",
    ),
    (
        "copyFile",
        r#"{"fromPath": "a", "toPath": "b"}"#,
        "copy_file",
        r#"TwoPathsRequest { from: "a", to: "b" }"#,
        "null",
    ),
    (
        "link",
        r#"{"target": "a", "path": "b"}"#,
        "link",
        r#"TwoPathsRequest { from: "a", to: "b" }"#,
        "null",
    ),
    (
        "symlink",
        r#"{"target": "a", "path": "b", "options": {"type": "dir"}}"#,
        "symlink",
        r#"TwoPathsRequest { from: "a", to: "b" }"#,
        "null",
    ),
    (
        "readLink",
        r#"{"path": "/x"}"#,
        "read_link",
        r#"PathRequest { path: "/x" }"#,
        r#""target""#,
    ),
    (
        "realPath",
        r#"{"path": "/x"}"#,
        "real_path",
        r#"PathRequest { path: "/x" }"#,
        r#""/real""#,
    ),
    (
        "truncate",
        r#"{"name": "/x", "length": null}"#,
        "truncate",
        r#"TruncateRequest { path: "/x", length: 0 }"#,
        "null",
    ),
    (
        "truncate",
        r#"{"name": "/x", "length": 9}"#,
        "truncate",
        r#"TruncateRequest { path: "/x", length: 9 }"#,
        "null",
    ),
    (
        "umask",
        r#"{"mask": null}"#,
        "umask",
        "UmaskRequest { mask: None }",
        "18",
    ),
    (
        "umask",
        r#"{"mask": 63}"#,
        "umask",
        "UmaskRequest { mask: Some(63) }",
        "18",
    ),
    (
        "utime",
        r#"{"path": "/x", "atime": "2026-01-01T00:00:00.000Z", "mtime": 1.5}"#,
        "utime",
        r#"UtimeRequest { path: "/x", atime_nanos: 1767225600000000000, mtime_nanos: 1500000000 }"#,
        "null",
    ),
    (
        "makeTempDir",
        "{}",
        "make_temp",
        r#"MakeTempRequest { directory: true, dir: "", prefix: "", suffix: "" }"#,
        r#""/tmp/x""#,
    ),
    (
        "makeTempFile",
        r#"{"options": {"dir": "d", "prefix": "p", "suffix": "s"}}"#,
        "make_temp",
        r#"MakeTempRequest { directory: false, dir: "d", prefix: "p", suffix: "s" }"#,
        r#""/tmp/x""#,
    ),
    (
        "envGet",
        r#"{"key": "A"}"#,
        "get_env",
        r#"EnvKey { key: "A" }"#,
        "null",
    ),
    (
        "envSet",
        r#"{"key": "A", "value": "1"}"#,
        "set_env",
        r#"EnvEntry { key: "A", value: "1" }"#,
        "null",
    ),
    ("envToObject", "{}", "all_env", "Empty", r#"{"A": "1"}"#),
    (
        "envDelete",
        r#"{"key": "A"}"#,
        "delete_env",
        r#"EnvKey { key: "A" }"#,
        "null",
    ),
    (
        "readDir",
        r#"{"path": "/x"}"#,
        "read_dir",
        r#"PathRequest { path: "/x" }"#,
        "[]",
    ),
    (
        "walk",
        r#"{"path": "/x", "maxDepth": null}"#,
        "walk",
        r#"WalkRequest { path: "/x", max_depth: None, include_files: true, include_dirs: true, include_symlinks: true, follow_symlinks: false, canonicalize: true, exts: [], has_exts: false, r#match: [], has_match: false, skip: [] }"#,
        "[]",
    ),
    (
        "walk",
        r#"{"path": "/x", "maxDepth": 3, "includeFiles": false, "includeDirs": false, "includeSymlinks": false, "followSymlinks": true, "canonicalize": false, "exts": [], "match": [{"source": "a", "flags": "i"}], "skip": [{"source": "b"}]}"#,
        "walk",
        r#"WalkRequest { path: "/x", max_depth: Some(3), include_files: false, include_dirs: false, include_symlinks: false, follow_symlinks: true, canonicalize: false, exts: [], has_exts: true, r#match: [Regex { source: "a", flags: "i" }], has_match: true, skip: [Regex { source: "b", flags: "" }] }"#,
        "[]",
    ),
    (
        "expandGlob",
        r#"{"glob": "*", "root": null}"#,
        "expand_glob",
        r#"ExpandGlobRequest { glob: "*", root: "", exclude: [], include_dirs: true, follow_symlinks: false, canonicalize: true, extended: true, globstar: true, case_insensitive: false }"#,
        "[]",
    ),
];

/// Of the first file a test opens, in this order.
const BY_HANDLE: &[Case] = &[
    (
        "fileRead",
        r#"{"fileHandleId": 1, "length": 3}"#,
        "handle_read",
        "HandleReadRequest { handle: 1, length: 3 }",
        r#"{"data": "eHh4"}"#,
    ),
    (
        "fileRead",
        r#"{"fileHandleId": 1, "length": 0}"#,
        "handle_read",
        "HandleReadRequest { handle: 1, length: 0 }",
        r#"{"data": ""}"#,
    ),
    (
        "fileWrite",
        r#"{"fileHandleId": 1, "data": "aGk="}"#,
        "handle_write",
        r#"HandleWriteRequest { handle: 1, data: b"hi" }"#,
        r#"{"bytesWritten": 2}"#,
    ),
    (
        "fileWrite",
        r#"{"fileHandleId": 1, "data": ""}"#,
        "handle_write",
        r#"HandleWriteRequest { handle: 1, data: b"" }"#,
        r#"{"bytesWritten": 0}"#,
    ),
    (
        "fileSeek",
        r#"{"fileHandleId": 1, "offset": -4, "whence": 2}"#,
        "handle_seek",
        "HandleSeekRequest { handle: 1, offset: -4, whence: 2 }",
        r#"{"position": 7}"#,
    ),
    (
        "fileSeek",
        r#"{"fileHandleId": 1, "offset": "4", "whence": 0}"#,
        "handle_seek",
        "HandleSeekRequest { handle: 1, offset: 4, whence: 0 }",
        r#"{"position": 7}"#,
    ),
    (
        "fileTruncate",
        r#"{"fileHandleId": 1, "len": 3}"#,
        "handle_truncate",
        "HandleTruncateRequest { handle: 1, length: 3 }",
        "null",
    ),
    (
        "fileTruncate",
        r#"{"fileHandleId": 1, "size": 4}"#,
        "handle_truncate",
        "HandleTruncateRequest { handle: 1, length: 4 }",
        "null",
    ),
    (
        "fileTruncate",
        r#"{"fileHandleId": 1, "size": null}"#,
        "handle_truncate",
        "HandleTruncateRequest { handle: 1, length: 0 }",
        "null",
    ),
    (
        "fileStat",
        r#"{"fileHandleId": 1}"#,
        "handle_stat",
        "HandleRequest { handle: 1 }",
        FILE_INFO,
    ),
    (
        "fileSync",
        r#"{"fileHandleId": 1}"#,
        "handle_sync",
        "HandleSyncRequest { handle: 1, data_only: false }",
        "null",
    ),
    (
        "fileSyncData",
        r#"{"fileHandleId": 1}"#,
        "handle_sync",
        "HandleSyncRequest { handle: 1, data_only: true }",
        "null",
    ),
    (
        "fileUtime",
        r#"{"fileHandleId": 1, "atime": "2026-01-01T00:00:00.000Z", "mtime": 2}"#,
        "handle_utime",
        "HandleUtimeRequest { handle: 1, atime_nanos: 1767225600000000000, mtime_nanos: 2000000000 }",
        "null",
    ),
    (
        "fileUnlock",
        r#"{"fileHandleId": 1}"#,
        "handle_unlock",
        "HandleRequest { handle: 1 }",
        "null",
    ),
    (
        "fileClose",
        r#"{"fileHandleId": 1}"#,
        "handle_close",
        "HandleRequest { handle: 1 }",
        "null",
    ),
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

async fn check(harness: &Harness, client: &mut Client, case: &Case) {
    let (method, params, guest_method, request, answer) = case;
    let got = client.ok(method, json(params)).await;
    assert_eq!(got, json(answer), "{method} {params}");
    let asked = harness.agent.calls(guest_method).pop();
    assert_eq!(asked.as_deref(), Some(*request), "{method} {params}");
}

#[tokio::test]
async fn every_method_asks_the_guest_and_answers() {
    // Python's answers to walks are the simplest to compare.
    let harness = Harness::new(Dialect::Python).await;
    let mut client = harness.connect().await;
    for case in BY_PATH {
        check(&harness, &mut client, case).await;
    }
}

#[tokio::test]
async fn every_method_tells_the_guests_error() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    for (method, params, guest_method, ..) in BY_PATH {
        harness.agent.fail(guest_method, 2);
        let error = client.error(method, json(params)).await;
        assert_eq!(error["constructorName"], "NotFound", "{method}");
        assert_eq!(error["code"], "ENOENT", "{method}");
        let expected = format!("No such file or directory (os error 2): {guest_method} '/x'");
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
async fn an_open_file_does_everything() {
    let harness = Harness::new(Dialect::JavaScript).await;
    let mut client = harness.connect().await;
    assert_eq!(open(&mut client).await, json!(1));
    for case in BY_HANDLE {
        check(&harness, &mut client, case).await;
    }
    let closed = client.error("fileClose", json!({"fileHandleId": 1})).await;
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
