//! Processes on a terminal.

use bytes::Bytes;
use rustix::io::Errno;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_guest_proto::v1::{
    CloseOutputRequest, InputChunk, OutputRequest, OutputStream, ResizePtyRequest, SpawnRequest,
    WindowSize,
};

use crate::support::{Guest, command, errno, shell, within};

fn on_terminal(request: SpawnRequest) -> SpawnRequest {
    let size = WindowSize {
        rows: 24,
        columns: 80,
    };
    SpawnRequest {
        terminal: Some(size),
        ..request
    }
}

#[tokio::test]
async fn a_terminal_is_one() {
    let guest = Guest::start().await;
    let script = "stty size; tty | cut -c1-9; test -t 0 && test -t 1 && test -t 2 && echo all; \
        echo $TERM; : < /dev/tty && echo controlling; echo err >&2";
    let pid = guest.spawn(on_terminal(shell(script))).await.unwrap();
    let output = guest.read_all(pid, OutputStream::OutputStdout).await;
    let expected = "24 80\r\n/dev/pts/\r\nall\r\nxterm-256color\r\ncontrolling\r\nerr\r\n";
    assert_eq!(output, expected);
    let nothing = guest.read_all(pid, OutputStream::OutputStderr).await;
    assert!(nothing.is_empty());
    assert_eq!(guest.wait(pid).await.code, 0);
}

#[tokio::test]
async fn a_terminal_is_not_closed() {
    let guest = Guest::start().await;
    let script = "stty -echo; echo ready; read line; echo $line";
    let pid = guest.spawn(on_terminal(shell(script))).await.unwrap();
    let close = CloseOutputRequest {
        pid,
        stream: OutputStream::OutputStdout.into(),
    };
    let mut client = guest.client.clone();
    within(client.close_output(close)).await.unwrap();
    let line = InputChunk {
        pid,
        data: Bytes::from_static(b"on\n"),
    };
    within(client.input(tokio_stream::iter([line])))
        .await
        .unwrap();
    let output = guest.read_all(pid, OutputStream::OutputStdout).await;
    assert!(output.ends_with(b"on\r\n"), "{output:?}");
    assert_eq!(guest.wait(pid).await.code, 0);
}

#[tokio::test]
async fn a_terminal_can_be_resized_and_interrupted() {
    let guest = Guest::start().await;
    let script = "stty -echo; trap 'stty size' WINCH; trap 'echo int; exit 3' INT; \
        echo ready; while :; do sleep 0.02; done";
    let pid = guest.spawn(on_terminal(shell(script))).await.unwrap();
    let request = OutputRequest {
        pid,
        stream: OutputStream::OutputStdout.into(),
        offset: 0,
    };
    let mut client = guest.client.clone();
    let mut output = client.output(request).await.unwrap().into_inner();
    let mut line = async || {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let chunk = within(output.message()).await.unwrap().unwrap();
            line.extend_from_slice(&chunk.data);
        }
        String::from_utf8(line).unwrap()
    };
    assert_eq!(line().await, "ready\r\n");
    let size = WindowSize {
        rows: 50,
        columns: 132,
    };
    let size = Some(size);
    client
        .resize_pty(ResizePtyRequest { pid, size })
        .await
        .unwrap();
    assert_eq!(line().await, "50 132\r\n");
    let (input, chunks) = tokio::sync::mpsc::channel(1);
    let mut feeder = guest.client.clone();
    let feeding = tokio::spawn(async move { feeder.input(ReceiverStream::new(chunks)).await });
    let data = Bytes::from_static(b"\x03");
    input.send(InputChunk { pid, data }).await.unwrap();
    assert_eq!(line().await.trim_start_matches("^C"), "int\r\n");
    assert_eq!(guest.wait(pid).await.code, 3);
    drop(input);
    within(feeding).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_input_reaches_a_program_that_reads_lines() {
    let guest = Guest::start().await;
    let pid = guest
        .spawn(on_terminal(command("wc", &["-l"])))
        .await
        .unwrap();
    let data = Bytes::from_static(b"one\ntwo\n");
    let chunks = tokio_stream::iter([InputChunk { pid, data }]);
    within(guest.client.clone().input(chunks)).await.unwrap();
    let output = guest.read_all(pid, OutputStream::OutputStdout).await;
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.ends_with("2\r\n"), "{output:?}");
    assert_eq!(guest.wait(pid).await.code, 0);
}

#[tokio::test]
async fn only_a_terminal_has_a_size() {
    let guest = Guest::start().await;
    let pid = guest.spawn(command("sleep", &["1000"])).await.unwrap();
    let size = Some(WindowSize {
        rows: 1,
        columns: u32::MAX,
    });
    for (pid, expected) in [(pid, Errno::NOTTY), (i32::MAX, Errno::SRCH)] {
        let mut client = guest.client.clone();
        let resized = client.resize_pty(ResizePtyRequest { pid, size });
        assert_eq!(errno(&within(resized).await), expected.raw_os_error());
    }
}
