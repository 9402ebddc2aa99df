//! Requests and files meant to hang, exhaust or confuse the agent. Whatever
//! they come to, it must go on answering.

use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tombolo_guest_proto::v1::write_file_chunk::Part;
use tombolo_guest_proto::v1::{
    ExpandGlobRequest, HelloRequest, InputChunk, OpenRequest, Regex, StatRequest, WalkRequest,
    WriteFileChunk,
};
use tonic::{Code, Status};

use crate::support::{Guest, create, errno, failure, path, shell, within};

async fn walk(guest: &Guest, request: WalkRequest) -> Result<usize, Status> {
    let mut batches = guest.client.clone().walk(request).await?;
    let mut count = 0;
    while let Some(batch) = batches.get_mut().message().await? {
        count += batch.entries.len();
    }
    Ok(count)
}

fn matching(source: &str, flags: &str) -> WalkRequest {
    let regex = Regex {
        source: source.into(),
        flags: flags.into(),
    };
    WalkRequest {
        path: ".".into(),
        include_files: true,
        include_dirs: true,
        include_symlinks: true,
        r#match: vec![regex],
        has_match: true,
        ..WalkRequest::default()
    }
}

async fn still_answers(guest: &Guest) {
    let hello = guest.client.clone().hello(HelloRequest {}).await;
    within(async { hello.unwrap() }).await;
    guest.write(create("alive"), b"yes").await.unwrap();
    assert_eq!(guest.sh("cat alive").await.stdout, "yes");
}

#[tokio::test]
async fn bad_expressions_are_named() {
    let guest = Guest::start().await;
    let deep = "(".repeat(5000) + &")".repeat(5000);
    let classes = "[".repeat(5000);
    let long = "a".repeat(100_000);
    let many = "a|".repeat(7000);
    let cases = [
        "(",
        "[",
        "a{2,1}",
        "\\k<x>(?<y>)",
        &deep,
        &classes,
        &long,
        &many,
    ];
    for source in cases {
        let error = failure(walk(&guest, matching(source, "")).await);
        assert_eq!(error.kind, "bad_regex", "{source:.20}");
    }
    for flags in ["x", "gg", "uv", "é"] {
        let error = failure(walk(&guest, matching("a", flags)).await);
        assert_eq!(error.kind, "bad_regex", "{flags}");
    }
    still_answers(&guest).await;
}

#[tokio::test]
async fn lists_of_patterns_have_a_bound() {
    let guest = Guest::start().await;
    guest.sh("mkdir d").await;
    for (count, accepted) in [(256, true), (257, false)] {
        let mut request = matching("d", "");
        request.r#match = vec![request.r#match[0].clone(); count];
        let walked = walk(&guest, request).await;
        assert_eq!(walked.is_ok(), accepted, "{count}");
        let request = ExpandGlobRequest {
            glob: "*".into(),
            exclude: vec!["x".to_owned(); count],
            ..ExpandGlobRequest::default()
        };
        let expanded = guest.client.clone().expand_glob(request).await;
        assert_eq!(expanded.is_ok(), accepted, "{count}");
    }
}

#[tokio::test]
async fn an_expression_without_end_holds_up_nothing_else() {
    let guest = Guest::start().await;
    guest.sh(&format!("touch {}", "a".repeat(60))).await;
    let endless = walk(&guest, matching("^(\\./)?(a|a|aa)+$b", ""));
    let endless = tokio::time::timeout(Duration::from_millis(300), endless);
    assert!(endless.await.is_err());
    still_answers(&guest).await;
}

#[tokio::test]
async fn paths_that_no_file_can_have() {
    let guest = Guest::start().await;
    let mut client = guest.client.clone();
    let paths = ["a\0b", "\0", "/\0"];
    for name in paths {
        let stat = StatRequest {
            path: name.into(),
            follow_symlinks: true,
        };
        let open = OpenRequest {
            path: name.into(),
            read: true,
            ..OpenRequest::default()
        };
        let walked = WalkRequest {
            path: name.into(),
            ..matching("", "")
        };
        let glob = ExpandGlobRequest {
            glob: name.into(),
            ..ExpandGlobRequest::default()
        };
        let errors = [
            failure(client.stat(stat).await),
            failure(client.open(open).await),
            failure(client.read_dir(path(name)).await),
            failure(client.real_path(path(name)).await),
            failure(guest.write(create(name), b"x").await),
            failure(walk(&guest, walked).await),
            failure(client.expand_glob(glob).await),
        ];
        for error in errors {
            assert_eq!(error.kind, "invalid_argument", "{error:?}");
        }
    }
    let long = "x/".repeat(200_000);
    let stat = StatRequest {
        path: long.clone(),
        follow_symlinks: false,
    };
    let long_stat = client.stat(stat).await;
    assert_eq!(errno(&long_stat), Errno::NAMETOOLONG.raw_os_error());
    let walked = WalkRequest {
        path: long,
        ..matching("", "")
    };
    let walked = walk(&guest, walked).await;
    assert_eq!(errno(&walked), Errno::NAMETOOLONG.raw_os_error());
}

#[tokio::test]
async fn files_that_block_hold_up_no_others() {
    let guest = Guest::start().await;
    guest.sh("mkfifo p").await;
    let reads = (0..200).map(|_| {
        let mut client = guest.client.clone();
        tokio::spawn(async move { client.read_file(path("p")).await.map(drop) })
    });
    let reads: Vec<_> = reads.collect();
    // As many as may wait do; the others are told.
    let mut refused = 0;
    for read in reads {
        let answer = tokio::time::timeout(Duration::from_millis(20), read).await;
        if let Ok(answer) = answer {
            assert_eq!(errno(&answer.unwrap()), Errno::AGAIN.raw_os_error());
            refused += 1;
        }
    }
    assert!(refused > 0);
    still_answers(&guest).await;
    guest.sh("exec 3<>p; sleep 0.2").await;
}

#[tokio::test]
async fn an_endless_file_is_read_as_slowly_as_it_is_wanted() {
    let guest = Guest::start().await;
    let mut chunks = guest
        .client
        .clone()
        .read_file(path("/dev/zero"))
        .await
        .unwrap();
    for _ in 0..10 {
        let chunk = within(chunks.get_mut().message()).await.unwrap().unwrap();
        assert_eq!(chunk.data.len(), 65_536);
    }
    drop(chunks);
    still_answers(&guest).await;
}

#[tokio::test]
async fn streams_that_start_wrong() {
    let guest = Guest::start().await;
    let mut client = guest.client.clone();
    let data = || WriteFileChunk {
        part: Some(Part::Data(Bytes::from_static(b"x"))),
    };
    let open = || WriteFileChunk {
        part: Some(Part::Open(create("f"))),
    };
    let cases = [
        vec![],
        vec![data()],
        vec![WriteFileChunk { part: None }],
        vec![open(), data(), open()],
    ];
    for chunks in cases {
        let written = client.write_file(tokio_stream::iter(chunks.clone())).await;
        let status = written.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{chunks:?}");
    }
    let nothing: Vec<InputChunk> = Vec::new();
    let fed = client.input(tokio_stream::iter(nothing)).await;
    assert_eq!(fed.unwrap_err().code(), Code::InvalidArgument);
    let huge = WriteFileChunk {
        part: Some(Part::Data(vec![0; 5 * 1024 * 1024].into())),
    };
    let chunks = tokio_stream::iter([open(), huge]);
    let status = client.write_file(chunks).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    still_answers(&guest).await;
}

#[tokio::test]
async fn ten_thousand_calls_at_once() {
    let guest = Guest::start().await;
    let calls = (0..10_000).map(|_| {
        let mut client = guest.client.clone();
        async move { client.hello(HelloRequest {}).await.is_ok() }
    });
    let answers = within(futures_util::future::join_all(calls)).await;
    assert!(answers.into_iter().all(|answered| answered));
}

#[tokio::test]
async fn calls_given_up_leave_nothing_behind() {
    let guest = Guest::start().await;
    guest.write(create("f"), &vec![0; 1_000_000]).await.unwrap();
    let agent = guest.agent_pid();
    let descriptors = || {
        let open = fs_err::read_dir(format!("/proc/{agent}/fd")).unwrap();
        open.count()
    };
    still_answers(&guest).await;
    let before = descriptors();
    for _ in 0..200 {
        let mut client = guest.client.clone();
        drop(client.read_file(path("f")).await.unwrap());
        drop(client.read_dir(path("/usr/bin")).await.unwrap());
        drop(
            client
                .walk(WalkRequest {
                    path: "/usr".into(),
                    ..matching("", "")
                })
                .await
                .unwrap(),
        );
        let pid = guest.spawn(shell("exit 0")).await.unwrap();
        guest.wait(pid).await;
    }
    crate::support::until(async || (descriptors() <= before).then_some(())).await;
}
