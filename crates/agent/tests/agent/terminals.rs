//! Processes on a terminal.

use bytes::Bytes;
use rustix::io::Errno;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_guest_proto::v1::{
    CloseOutputRequest, Empty, InputChunk, OutputRequest, OutputStream, ResizePtyRequest,
    SpawnRequest, WindowSize,
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
        ..InputChunk::default()
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
        ..OutputRequest::default()
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
    input
        .send(InputChunk {
            pid,
            data,
            ..InputChunk::default()
        })
        .await
        .unwrap();
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
    let chunks = tokio_stream::iter([InputChunk {
        pid,
        data,
        ..InputChunk::default()
    }]);
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

/// Who writes may go, and who comes next is shown what was written before.
#[tokio::test]
async fn a_terminal_goes_from_hand_to_hand() {
    let guest = Guest::start().await;
    let script = "stty -echo -icanon; echo ready; while read line; do echo \"got $line\"; done";
    let pid = guest.spawn(on_terminal(shell(script))).await.unwrap();
    let say = async |line: &'static [u8], leaves_open: bool| {
        let chunk = InputChunk {
            pid,
            data: Bytes::from_static(line),
            leaves_open,
        };
        let said = guest
            .client
            .clone()
            .input(tokio_stream::iter([chunk]))
            .await;
        said.map(drop)
    };
    let read = async |tail: Option<u64>, until: &str| {
        let request = OutputRequest {
            pid,
            tail,
            ..OutputRequest::default()
        };
        let mut output = guest
            .client
            .clone()
            .output(request)
            .await
            .unwrap()
            .into_inner();
        let (mut text, mut begin) = (String::new(), None);
        while !text.ends_with(until) {
            let chunk = within(output.message()).await.unwrap().unwrap();
            begin.get_or_insert(chunk.offset);
            text.push_str(std::str::from_utf8(&chunk.data).unwrap());
        }
        (text, begin.unwrap())
    };
    assert_eq!(read(None, "ready\r\n").await, ("ready\r\n".to_owned(), 0));
    within(say(b"one\n", true)).await.unwrap();
    assert_eq!(read(Some(0), "got one\r\n").await.1, 7);
    within(say(b"two\n", true)).await.unwrap();
    let all = "ready\r\ngot one\r\ngot two\r\n";
    assert_eq!(read(Some(1 << 40), "two\r\n").await, (all.to_owned(), 0));
    let (text, begin) = read(Some(5), "two\r\n").await;
    assert_eq!((text.as_str(), begin), ("two\r\n", 20));
    // The end of the input is another matter: nobody can write afterwards.
    within(say(b"", false)).await.unwrap();
    let refused = within(say(b"three\n", true)).await;
    assert_eq!(errno(&refused), Errno::BADF.raw_os_error());
    let listed = guest.client.clone().list_processes(Empty {}).await.unwrap();
    let listed = listed.into_inner().processes;
    assert!(listed.iter().any(|it| it.pid == pid && it.has_terminal));
}
