//! Connections of the host to programs that listen in the guest, and of programs
//! to where the host listens.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::dial_chunk::Part;
use tombolo_guest_proto::v1::dial_target::To;
use tombolo_guest_proto::v1::listen_event::Event;
use tombolo_guest_proto::v1::{DataChunk, DialChunk, DialTarget, ListenEvent, ListenRequest};
use tonic::{Status, Streaming};

use crate::support::{Guest, command, errno, failure, is_root, within};

type Sender = mpsc::Sender<DialChunk>;

fn part(part: Part) -> DialChunk {
    DialChunk { part: Some(part) }
}

fn target(to: To) -> DialChunk {
    part(Part::Target(DialTarget { to: Some(to) }))
}

fn data(bytes: &[u8]) -> DialChunk {
    part(Part::Data(Bytes::copy_from_slice(bytes)))
}

async fn open(guest: &Guest, first: DialChunk) -> Result<(Sender, Streaming<DataChunk>), Status> {
    let (sender, chunks) = mpsc::channel(4);
    sender.send(first).await.unwrap();
    let mut client = guest.client.clone();
    let answer = client.dial(ReceiverStream::new(chunks));
    Ok((sender, within(answer).await?.into_inner()))
}

/// A program, and the host's connection to it.
async fn joined(guest: &Guest) -> (TcpStream, Sender, Streaming<DataChunk>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let opened = open(guest, target(To::Port(port.into())));
    let (opened, accepted) = tokio::join!(opened, listener.accept());
    let (sender, answer) = opened.unwrap();
    (accepted.unwrap().0, sender, answer)
}

async fn rest(answer: &mut Streaming<DataChunk>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = within(answer.message()).await.unwrap() {
        assert!(!chunk.data.is_empty() && chunk.data.len() <= CHUNK_LEN_MAX);
        all.extend_from_slice(&chunk.data);
    }
    all
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let guest = Guest::start().await;
    let sent: Vec<u8> = (0..1_000_003_u32).map(|at| (at % 251) as u8).collect();
    // Who says all first: the host, then the program.
    for host_first in [true, false] {
        let (mut program, sender, mut answer) = joined(&guest).await;
        let chunks: Vec<_> = sent.chunks(CHUNK_LEN_MAX).map(data).collect();
        let speak = async {
            for chunk in chunks {
                sender.send(chunk).await.unwrap();
            }
            drop(sender);
        };
        if host_first {
            let mut heard = Vec::new();
            let hear = program.read_to_end(&mut heard);
            let (read, ()) = within(async { tokio::join!(hear, speak) }).await;
            read.unwrap();
            assert!(heard == sent);
            program.write_all(&sent).await.unwrap();
            drop(program);
            assert!(rest(&mut answer).await == sent);
        } else {
            program.write_all(b"all").await.unwrap();
            program.shutdown().await.unwrap();
            assert_eq!(rest(&mut answer).await, b"all");
            let mut heard = Vec::new();
            let hear = program.read_to_end(&mut heard);
            let (read, ()) = within(async { tokio::join!(hear, speak) }).await;
            read.unwrap();
            assert!(heard == sent);
        }
    }
}

#[tokio::test]
async fn whoever_gives_up_is_noticed() {
    let guest = Guest::start().await;
    let (mut program, sender, answer) = joined(&guest).await;
    drop(answer);
    drop(sender);
    let mut heard = Vec::new();
    // An end or a reset: either way the program does not wait for ever.
    within(program.read_to_end(&mut heard))
        .await
        .map(drop)
        .unwrap_or_default();

    let (program, sender, mut answer) = joined(&guest).await;
    drop(program);
    assert_eq!(rest(&mut answer).await, b"");
    // It may have closed one direction only, which shows when it is spoken to.
    within(async { while sender.send(data(b"anybody?")).await.is_ok() {} }).await;
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let guest = Guest::start().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let pid = guest.spawn(command("sleep", &["60"])).await.unwrap();
    let refused = [
        (target(To::Port(closed.into())), Errno::CONNREFUSED),
        (target(To::Pid(pid)), Errno::CONNREFUSED),
        (target(To::Pid(-1)), Errno::SRCH),
        (target(To::Accepted(1)), Errno::NOTCONN),
    ];
    for (first, expected) in refused {
        let opened = open(&guest, first.clone()).await.map(drop);
        assert_eq!(errno(&opened), expected.raw_os_error(), "{first:?}");
    }
    let wrong = [
        target(To::Port(0)),
        target(To::Port(65_536)),
        data(b"GET / HTTP/1.1"),
        part(Part::Target(DialTarget { to: None })),
        DialChunk { part: None },
    ];
    for first in wrong {
        let opened = open(&guest, first.clone()).await.map(drop);
        assert_eq!(failure(opened).kind, "invalid_argument", "{first:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_reached_by_its_path() {
    let guest = Guest::start().await;
    let place = |name: &str| guest.home.join(name);
    let listen = |name: &str, mode: u32| {
        let listener = UnixListener::bind(place(name)).unwrap();
        fs_err::set_permissions(place(name), Permissions::from_mode(mode)).unwrap();
        listener
    };
    let listener = listen("here", 0o666);
    // Of whoever runs the test. Where that is root, as the agent then is, the user is not.
    let _closed = listen("closed", if is_root() { 0o600 } else { 0 });
    fs_err::write(place("file"), "").unwrap();
    fs_err::set_permissions(place("file"), Permissions::from_mode(0o666)).unwrap();
    // Relative to the user's home.
    let opened = open(&guest, target(To::Path("here".to_owned()))).await;
    let (sender, mut answer) = opened.unwrap();
    let (mut program, _) = within(listener.accept()).await.unwrap();
    sender.send(data(b"to the program")).await.unwrap();
    drop(sender);
    let mut heard = Vec::new();
    within(program.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"to the program");
    program.write_all(b"and back").await.unwrap();
    drop(program);
    assert_eq!(rest(&mut answer).await, b"and back");

    for (path, expected) in [
        (place("nowhere"), Errno::NOENT),
        (place("closed"), Errno::ACCESS),
        (place("file"), Errno::CONNREFUSED),
        (place(&"long".repeat(30)), Errno::NAMETOOLONG),
    ] {
        let path = path.to_str().unwrap().to_owned();
        let opened = open(&guest, target(To::Path(path.clone()))).await.map(drop);
        assert_eq!(errno(&opened), expected.raw_os_error(), "{path}");
    }
    // A name that is not a path: unix(7).
    let hidden = open(&guest, target(To::Path("\0hidden".to_owned()))).await;
    assert_eq!(failure(hidden.map(drop)).kind, "invalid_argument");
}

#[tokio::test]
async fn a_process_is_reached_where_it_listens() {
    let guest = Guest::start().await;
    let serve = "import socket, sys\n\
        s = socket.create_server(('::1', 0), family=socket.AF_INET6)\n\
        print(flush=True)\n\
        s.accept()[0].sendall(b'here')\n";
    let shell = format!("python3 -c \"{serve}\"; true");
    let request = tombolo_guest_proto::v1::SpawnRequest {
        stdout: tombolo_guest_proto::v1::Stdio::Piped.into(),
        ..command("bash", &["-c", &shell])
    };
    let pid = guest.spawn(request).await.unwrap();
    let mut output = guest
        .client
        .clone()
        .output(tombolo_guest_proto::v1::OutputRequest {
            pid,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    within(output.message()).await.unwrap().unwrap();
    let (_sender, mut answer) = open(&guest, target(To::Pid(pid))).await.unwrap();
    assert_eq!(rest(&mut answer).await, b"here");
}

/// Where the agent listens, and what it tells.
async fn listening(guest: &Guest, port: u32) -> Result<(u16, Streaming<ListenEvent>), Status> {
    let request = ListenRequest { port };
    let mut events = within(guest.client.clone().listen(request))
        .await?
        .into_inner();
    match next(&mut events).await {
        Some(Event::Port(port)) => Ok((port.try_into().unwrap(), events)),
        other => panic!("{other:?} is no port"),
    }
}

async fn next(events: &mut Streaming<ListenEvent>) -> Option<Event> {
    let event = within(events.message()).await.unwrap();
    event.and_then(|event| event.event)
}

async fn accepted(events: &mut Streaming<ListenEvent>) -> u64 {
    match next(events).await {
        Some(Event::Accepted(number)) => number,
        other => panic!("{other:?} is no connection"),
    }
}

#[tokio::test]
async fn programs_reach_where_the_host_listens() {
    let guest = Guest::start().await;
    let (port, mut events) = listening(&guest, 0).await.unwrap();
    for address in ["127.0.0.1", "::1"] {
        let mut program = TcpStream::connect((address, port)).await.unwrap();
        let number = accepted(&mut events).await;
        let (sender, mut answer) = open(&guest, target(To::Accepted(number))).await.unwrap();
        sender.send(data(b"question")).await.unwrap();
        drop(sender);
        let mut heard = Vec::new();
        within(program.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"question", "{address}");
        program.write_all(b"answer").await.unwrap();
        drop(program);
        assert_eq!(rest(&mut answer).await, b"answer", "{address}");
        // Once.
        let again = open(&guest, target(To::Accepted(number))).await.map(drop);
        assert_eq!(errno(&again), Errno::NOTCONN.raw_os_error());
    }
}

#[tokio::test]
async fn a_port_is_one_listeners_until_its_call_ends() {
    let guest = Guest::start().await;
    let (port, mut events) = listening(&guest, 0).await.unwrap();
    let again = listening(&guest, port.into()).await.map(drop);
    assert_eq!(errno(&again), Errno::ADDRINUSE.raw_os_error());
    let wide = listening(&guest, 65_536).await.map(drop);
    assert_eq!(failure(wide).kind, "invalid_argument");

    let mut waits = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let waiting = accepted(&mut events).await;
    let mut taken = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let number = accepted(&mut events).await;
    let (sender, _answer) = open(&guest, target(To::Accepted(number))).await.unwrap();
    drop(events);
    // Who waits is hung up on, who was taken up is not.
    within(waits.read_to_end(&mut Vec::new()))
        .await
        .map(drop)
        .unwrap_or_default();
    let gone = open(&guest, target(To::Accepted(waiting))).await.map(drop);
    assert_eq!(errno(&gone), Errno::NOTCONN.raw_os_error());
    sender.send(data(b"still here")).await.unwrap();
    let mut heard = [0; 10];
    within(taken.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"still here");
    listening(&guest, port.into()).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_the_host_is_bounded() {
    let guest = Guest::start().await;
    let (port, mut events) = listening(&guest, 0).await.unwrap();
    let mut programs = Vec::new();
    for _ in 0..40 {
        programs.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let mut numbers = Vec::new();
    for _ in 0..32 {
        numbers.push(accepted(&mut events).await);
    }
    // The next is accepted when one is taken up.
    let taken = open(&guest, target(To::Accepted(numbers[0])))
        .await
        .unwrap();
    let next = accepted(&mut events).await;
    assert!(!numbers.contains(&next));
    drop(taken);

    let mut listeners = Vec::new();
    let full = loop {
        match listening(&guest, 0).await {
            Ok(listener) => listeners.push(listener),
            Err(status) => break Err::<(), _>(status),
        }
    };
    assert_eq!(errno(&full), Errno::MFILE.raw_os_error());
    assert_eq!(listeners.len(), 63);
}
