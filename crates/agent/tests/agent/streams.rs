//! Standard streams: backpressure, resumption, hand-over, ends.

use bytes::Bytes;
use rustix::io::Errno;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::{
    CloseOutputRequest, InputChunk, OutputChunk, OutputRequest, OutputStream, SpawnRequest, Stdio,
};
use tonic::{Status, Streaming};

use crate::support::{Guest, command, errno, failure, shell, until, within};

fn piped(request: SpawnRequest) -> SpawnRequest {
    SpawnRequest {
        stdin: Stdio::Piped.into(),
        stdout: Stdio::Piped.into(),
        ..request
    }
}

async fn output(guest: &Guest, pid: i32, offset: u64) -> Streaming<OutputChunk> {
    let request = OutputRequest {
        pid,
        stream: OutputStream::OutputStdout.into(),
        offset,
        ..OutputRequest::default()
    };
    let output = within(guest.client.clone().output(request)).await;
    output.unwrap().into_inner()
}

async fn next(output: &mut Streaming<OutputChunk>) -> Option<Bytes> {
    let chunk = within(output.message()).await.unwrap();
    chunk.map(|chunk| chunk.data)
}

async fn feed(guest: &Guest, pid: i32, data: &[u8]) -> Result<(), Status> {
    let chunks = data.chunks(CHUNK_LEN_MAX).map(|data| InputChunk {
        pid,
        data: Bytes::copy_from_slice(data),
        ..InputChunk::default()
    });
    let chunks = tokio_stream::iter(chunks.collect::<Vec<_>>());
    within(guest.client.clone().input(chunks)).await.map(drop)
}

/// Bytes that show when one is lost, doubled or moved.
fn pattern(len: usize) -> Vec<u8> {
    let words = (0..=len / 8).flat_map(|word| format!("{word:07}\n").into_bytes());
    words.take(len).collect()
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let guest = Guest::start().await;
    for len in [0, 1, 65_536, 1_000_003] {
        let pid = guest.spawn(piped(command("cat", &[]))).await.unwrap();
        let data = pattern(len);
        let first = InputChunk {
            pid,
            data: Bytes::new(),
            ..InputChunk::default()
        };
        let chunks = data.chunks(CHUNK_LEN_MAX).map(|chunk| InputChunk {
            pid: -1,
            data: Bytes::copy_from_slice(chunk),
            ..InputChunk::default()
        });
        let chunks: Vec<_> = std::iter::once(first).chain(chunks).collect();
        let mut client = guest.client.clone();
        let (fed, read) = tokio::join!(
            client.input(tokio_stream::iter(chunks)),
            guest.read_all(pid, OutputStream::OutputStdout)
        );
        fed.unwrap();
        assert!(read == data, "{len} bytes came out as {}", read.len());
        assert_eq!(guest.wait(pid).await.code, 0);
    }
}

#[tokio::test]
async fn output_waits_for_a_reader_and_exit_does_not() {
    let guest = Guest::start().await;
    let pid = guest
        .spawn(piped(shell("echo kept; exit 4")))
        .await
        .unwrap();
    assert_eq!(guest.wait(pid).await.code, 4);
    let kept = guest.read_all(pid, OutputStream::OutputStdout).await;
    assert_eq!(kept, "kept\n");
    // Ended and read, it can be read again.
    let again = guest.read_all(pid, OutputStream::OutputStdout).await;
    assert_eq!(again, "kept\n");
    let none = guest.read_all(pid, OutputStream::OutputStderr).await;
    assert!(none.is_empty());
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo done > flag";
    let pid = guest.spawn(piped(shell(script))).await.unwrap();
    let mut slow = output(&guest, pid, 0).await;
    let first = next(&mut slow).await.unwrap();
    // Held up by everything between here and there, it cannot have ended.
    let ended = tokio::time::timeout(std::time::Duration::from_millis(200), guest.wait(pid));
    assert!(ended.await.is_err());
    let mut len = first.len();
    while let Some(chunk) = next(&mut slow).await {
        assert!(chunk.len() <= CHUNK_LEN_MAX);
        len += chunk.len();
    }
    assert_eq!(len, 3_000_000);
    assert_eq!(guest.wait(pid).await.code, 0);
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing() {
    let guest = Guest::start().await;
    let data = pattern(900_000);
    guest
        .write(crate::support::create("data"), &data)
        .await
        .unwrap();
    let pid = guest.spawn(piped(command("cat", &["data"]))).await.unwrap();
    let mut got = Vec::new();
    let mut reconnections = 0;
    loop {
        let mut reader = output(&guest, pid, got.len() as u64).await;
        let Some(chunk) = next(&mut reader).await else {
            break;
        };
        // More may be on the way when this reader goes.
        got.extend_from_slice(&chunk);
        reconnections += 1;
    }
    assert!(got == data, "{} bytes", got.len());
    assert!(reconnections > 5);
    let beyond = output(&guest, pid, 1 << 40).await.message().await;
    assert_eq!(failure(beyond).kind, "invalid_argument");
}

#[tokio::test]
async fn a_second_reader_takes_over() {
    let guest = Guest::start().await;
    let pid = guest.spawn(piped(command("cat", &[]))).await.unwrap();
    let (input, chunks) = tokio::sync::mpsc::channel(1);
    let mut client = guest.client.clone();
    let feeding = tokio::spawn(async move { client.input(ReceiverStream::new(chunks)).await });
    let send = async |data: &'static str| {
        let data = Bytes::from_static(data.as_bytes());
        input
            .send(InputChunk {
                pid,
                data,
                ..InputChunk::default()
            })
            .await
            .unwrap();
    };
    let mut first = output(&guest, pid, 0).await;
    send("one").await;
    assert_eq!(next(&mut first).await.unwrap(), "one");
    let mut second = output(&guest, pid, 3).await;
    let ended = within(first.message()).await;
    assert_eq!(errno(&ended), Errno::CANCELED.raw_os_error());
    send("two").await;
    assert_eq!(next(&mut second).await.unwrap(), "two");
    drop(input);
    within(feeding).await.unwrap().unwrap();
    assert_eq!(next(&mut second).await, None);
    assert_eq!(guest.wait(pid).await.code, 0);
}

#[tokio::test]
async fn a_process_whose_output_is_closed_is_told() {
    const SIGPIPE: i32 = 13;
    let guest = Guest::start().await;
    let streams = [
        (OutputStream::OutputStdout, "exec yes"),
        (OutputStream::OutputStderr, "exec yes >&2"),
    ];
    for (stream, script) in streams {
        // With a reader that is under way, and with none so far.
        for is_read in [true, false] {
            let request = SpawnRequest {
                stderr: Stdio::Piped.into(),
                ..piped(shell(script))
            };
            let pid = guest.spawn(request).await.unwrap();
            let mut client = guest.client.clone();
            let mut reader = None;
            if is_read {
                let request = OutputRequest {
                    pid,
                    stream: stream.into(),
                    offset: 0,
                    ..OutputRequest::default()
                };
                let mut output = within(client.output(request)).await.unwrap().into_inner();
                next(&mut output).await.unwrap();
                reader = Some(output);
            }
            let close = CloseOutputRequest {
                pid,
                stream: stream.into(),
            };
            within(client.close_output(close)).await.unwrap();
            assert_eq!(guest.wait(pid).await.signal, SIGPIPE, "{script}, {is_read}");
            match reader {
                Some(mut output) => while next(&mut output).await.is_some() {},
                None => assert!(guest.read_all(pid, stream).await.is_empty()),
            }
            within(client.close_output(close)).await.unwrap();
        }
    }
    let close = CloseOutputRequest {
        pid: i32::MAX,
        stream: OutputStream::OutputStdout.into(),
    };
    let unknown = within(guest.client.clone().close_output(close)).await;
    assert_eq!(errno(&unknown), Errno::SRCH.raw_os_error());
}

#[tokio::test]
async fn input_to_a_process_that_does_not_read_waits() {
    let guest = Guest::start().await;
    let request = piped(shell("read line; echo $line; exec sleep 1000"));
    let pid = guest.spawn(request).await.unwrap();
    let (input, chunks) = tokio::sync::mpsc::channel(1);
    let mut client = guest.client.clone();
    let feeding = tokio::spawn(async move { client.input(ReceiverStream::new(chunks)).await });
    let mut taken = 0;
    let chunk = InputChunk {
        pid,
        data: Bytes::from(vec![b'\n'; CHUNK_LEN_MAX]),
        ..InputChunk::default()
    };
    let pause = std::time::Duration::from_millis(300);
    while let Ok(sent) = tokio::time::timeout(pause, input.send(chunk.clone())).await {
        sent.unwrap();
        taken += 1;
        assert!(taken < 100, "nothing holds the sender up");
    }
    let kill = tombolo_guest_proto::v1::KillRequest { pid, signal: 9 };
    guest.client.clone().kill(kill).await.unwrap();
    within(feeding).await.unwrap().unwrap();
}

#[tokio::test]
async fn input_after_the_end_is_dropped_quietly() {
    let guest = Guest::start().await;
    let pid = guest.spawn(piped(command("true", &[]))).await.unwrap();
    guest.wait(pid).await;
    feed(&guest, pid, &pattern(1_000_000)).await.unwrap();
    feed(&guest, pid, b"more").await.unwrap();
    let bad = Errno::BADF.raw_os_error();
    let pid = guest.spawn(command("sleep", &["1000"])).await.unwrap();
    assert_eq!(errno(&feed(&guest, pid, b"x").await), bad, "no pipe");
    let stranger = feed(&guest, i32::MAX, b"x").await;
    assert_eq!(errno(&stranger), Errno::SRCH.raw_os_error());
}

#[tokio::test]
async fn input_that_breaks_off_can_go_on() {
    let guest = Guest::start().await;
    let pid = guest.spawn(piped(command("cat", &[]))).await.unwrap();
    let (input, chunks) = tokio::sync::mpsc::channel(1);
    let (mut client, link) = guest.fragile_client().await;
    let feeding = tokio::spawn(async move { client.input(ReceiverStream::new(chunks)).await });
    let data = Bytes::from_static(b"one ");
    input
        .send(InputChunk {
            pid,
            data,
            ..InputChunk::default()
        })
        .await
        .unwrap();
    let mut reader = output(&guest, pid, 0).await;
    assert_eq!(next(&mut reader).await.unwrap(), "one ");
    link.abort();
    within(feeding).await.unwrap().unwrap_err();
    feed(&guest, pid, b"two").await.unwrap();
    assert_eq!(next(&mut reader).await.unwrap(), "two");
    assert_eq!(next(&mut reader).await, None);
}

#[tokio::test]
async fn a_grandchild_keeps_the_output_open() {
    let guest = Guest::start().await;
    let script = "(while ! test -e go; do sleep 0.02; done; echo late) & exit 5";
    let pid = guest.spawn(piped(shell(script))).await.unwrap();
    assert_eq!(guest.wait(pid).await.code, 5);
    let mut reader = output(&guest, pid, 0).await;
    guest
        .write(crate::support::create("go"), b"")
        .await
        .unwrap();
    assert_eq!(next(&mut reader).await.unwrap(), "late\n");
    assert_eq!(next(&mut reader).await, None);
}

#[tokio::test]
async fn a_lost_connection_loses_no_process() {
    let guest = Guest::start().await;
    let mut other = guest.another_client().await;
    let request = piped(shell("while ! test -e go; do sleep 0.02; done; echo on"));
    let pid = other.spawn(request).await.unwrap().into_inner().pid;
    drop(other);
    guest
        .write(crate::support::create("go"), b"")
        .await
        .unwrap();
    let read = guest.read_all(pid, OutputStream::OutputStdout).await;
    assert_eq!(read, "on\n");
    until(async || (guest.wait(pid).await.code == 0).then_some(())).await;
}
