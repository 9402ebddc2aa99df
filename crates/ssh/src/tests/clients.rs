//! Stock OpenSSH clients against a gateway whose sandbox is this machine.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tombolo_proc::{Command, Output};

use super::rig::{ECHO_PATH, ECHO_PORT, FREE_PORT, Rig, SANDBOX, TAKEN_PORT, USER};
use crate::{Limits, Program, Terminal};

/// What OpenSSH's client answers when it has no connection, or loses it.
const LOST: i32 = 255;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test]
async fn commands_have_streams_and_an_exit_status() {
    let rig = Rig::new().await;
    let cases: [(&str, &[u8], i32, &str, &str); 6] = [
        ("exit 0", b"", 0, "", ""),
        ("exit 7", b"", 7, "", ""),
        ("cat", b"through", 0, "through", ""),
        ("complain", b"", 0, "", "complaint\n"),
        ("missing", b"", 255, "", "tombolo: the sandbox has no it"),
        // OpenSSH's client answers with this when a signal ended the program.
        ("die 9", b"", 255, "", ""),
    ];
    for (line, input, status, stdout, stderr) in cases {
        let output = rig.run(&[], &[line], input).await;
        assert_eq!(code(&output), status, "{line}: {output:?}");
        assert_eq!(output.stdout_text(), stdout.trim_end(), "{line}");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains(stderr), "{line}: {complaint}");
    }
}

#[tokio::test]
async fn much_goes_both_ways_at_once() {
    let rig = Rig::new().await;
    // More than all windows and queues hold together.
    let sent: Vec<u8> = (0..24 * 1024 * 1024_u32)
        .map(|at| (at % 251) as u8)
        .collect();
    let command = rig.ssh(USER, &[], &["cat"]).input(sent.clone());
    let output = command.output_limit(2 * sent.len()).output().await.unwrap();
    assert_eq!(code(&output), 0);
    assert!(output.stdout == sent, "what came back differs");
    let output = rig.run(&[], &["flood 3000000"], b"").await;
    assert_eq!(code(&output), 0);
}

#[tokio::test]
async fn a_shell_has_a_terminal_and_a_command_has_one_when_asked() {
    let rig = Rig::new().await;
    let output = rig.run(&["-tt"], &[], b"").await;
    assert_eq!(code(&output), 0, "{output:?}");
    let launch = rig.world.launches.lock().pop().unwrap();
    assert_eq!(launch.program, Program::Shell);
    assert!(launch.terminal.is_some());
    let output = rig.run(&["-T"], &["exit 0"], b"").await;
    assert_eq!(code(&output), 0);
    let launch = rig.world.launches.lock().pop().unwrap();
    assert_eq!(launch.terminal, None::<Terminal>);
}

#[tokio::test]
async fn variables_are_passed_within_bounds() {
    let limits = Limits {
        environment_len_max: 20,
        ..Limits::STANDARD
    };
    let rig = Rig::with(limits).await;
    let options = [
        "-o",
        "SetEnv=GREETING=hello LONG=0123456789012345678901234567890",
    ];
    let cases = [("variable GREETING", "hello"), ("variable LONG", "")];
    for (line, expected) in cases {
        let output = rig.run(&options, &[line], b"").await;
        assert_eq!(output.stdout_text(), expected, "{line}: {output:?}");
    }
}

#[tokio::test]
async fn sftp_is_the_only_subsystem() {
    let rig = Rig::new().await;
    let output = rig.run(&["-s"], &["sftp"], b"packets").await;
    assert_eq!(output.stdout_text(), "packets");
    let launch = rig.world.launches.lock().pop().unwrap();
    assert_eq!(launch.program, Program::Sftp);
    let output = rig.run(&["-s"], &["other"], b"").await;
    assert_eq!(code(&output), LOST);
}

#[tokio::test]
async fn the_user_name_is_the_credential() {
    let rig = Rig::new().await;
    let unknown = "f".repeat(32);
    for user in [
        unknown.as_str(),
        SANDBOX,
        "root",
        "0123456789ABCDEF0123456789ABCDEF",
    ] {
        let output = rig.ssh(user, &[], &["exit 0"]).output().await.unwrap();
        assert_eq!(code(&output), LOST, "{user}");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        // Nothing is left to try but a key, and no password is asked for.
        let words = "Permission denied (publickey).";
        assert!(complaint.contains(words), "{complaint}");
    }
    assert!(rig.world.launches.lock().is_empty());
}

#[tokio::test]
async fn a_registered_key_opens_a_sandbox_by_its_id() {
    let rig = Rig::new().await;
    let file = rig.home.path().join("id");
    let make = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]);
    make.arg(&file).run().await.unwrap();
    let identity = format!("IdentityFile={}", file.display());
    let options = ["-o", identity.as_str(), "-o", "IdentitiesOnly=yes"];
    let command = || rig.ssh(SANDBOX, &options, &["exit 3"]);
    assert_eq!(code(&command().output().await.unwrap()), LOST);
    let line = fs_err::read_to_string(file.with_extension("pub")).unwrap();
    *rig.world.key.lock() = Some(line.parse().unwrap());
    let output = command().output().await.unwrap();
    assert_eq!(code(&output), 3, "{output:?}");
}

#[tokio::test]
async fn who_fails_too_often_is_not_heard() {
    let limits = Limits {
        refusal_time: Duration::from_millis(1),
        failures_max: 1,
        ..Limits::STANDARD
    };
    let rig = Rig::with(limits).await;
    let output = rig.ssh("nobody", &[], &["exit 0"]).output().await.unwrap();
    assert_eq!(code(&output), LOST);
    let output = rig.run(&[], &["exit 0"], b"").await;
    assert_eq!(code(&output), LOST, "{output:?}");
}

#[tokio::test]
async fn the_end_of_a_sandbox_ends_its_connections() {
    let rig = Rig::new().await;
    let ending = async {
        while rig.world.launches.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        rig.world.closed.cancel();
    };
    let (output, ()) = tokio::join!(rig.run(&[], &["wait"], b""), ending);
    assert_eq!(code(&output), LOST);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("the sandbox has ended"), "{complaint}");
}

#[tokio::test]
async fn a_stopped_gateway_tells_its_clients() {
    let rig = Rig::new().await;
    let command = rig.ssh(USER, &[], &["wait"]);
    let launches = rig.world.launches.clone();
    let gateway = rig.gateway;
    let stopping = async {
        while launches.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        gateway.stop().await;
    };
    let (output, ()) = tokio::join!(command.output(), stopping);
    assert_eq!(code(&output.unwrap()), LOST);
}

#[tokio::test]
async fn local_forwards_lead_to_the_loopback_and_nowhere_else() {
    let rig = Rig::new().await;
    // `-W` is a local forward of the client's own standard streams.
    let cases = [
        (format!("localhost:{ECHO_PORT}"), 0, "echoed"),
        (format!("127.0.0.1:{ECHO_PORT}"), 0, "echoed"),
        ("localhost:9".to_owned(), LOST, ""),
        (format!("192.0.2.1:{ECHO_PORT}"), LOST, ""),
        (format!("example.com:{ECHO_PORT}"), LOST, ""),
    ];
    for (target, status, expected) in cases {
        let output = rig.run(&["-W", &target], &[], b"echoed").await;
        assert_eq!(code(&output), status, "{target}: {output:?}");
        assert_eq!(output.stdout_text(), expected, "{target}");
    }
}

#[tokio::test]
async fn local_forwards_lead_to_unix_sockets() {
    let rig = Rig::new().await;
    for (path, expected) in [(ECHO_PATH, "echoed"), ("/run/nobody", "")] {
        let here = rig.home.path().join("here");
        let forward = format!("{}:{path}", here.display());
        let options = ["-L", &forward, "-o", "StreamLocalBindUnlink=yes"];
        let client = rig.ssh(USER, &options, &["cat"]).kill_on_drop(true);
        let client = client.spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit());
        let mut client = client.unwrap();
        // It listens before it starts the program, which says so.
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"?").await.unwrap();
        client.stdout.as_mut().unwrap().read_u8().await.unwrap();
        let mut stream = UnixStream::connect(&here).await.unwrap();
        let mut heard = Vec::new();
        // Where nobody listens it is closed, perhaps before all is said.
        if stream.write_all(b"echoed").await.is_ok() && stream.shutdown().await.is_ok() {
            drop(stream.read_to_end(&mut heard).await);
        }
        assert_eq!(heard, expected.as_bytes(), "{path}");
    }
}

#[tokio::test]
async fn remote_forwards_reach_the_client() {
    let rig = Rig::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let forward = format!("8080:127.0.0.1:{port}");
    let options = ["-o", "ExitOnForwardFailure=yes", "-R", forward.as_str()];
    let visiting = async {
        let sender = loop {
            let found = rig.world.forwards.lock().first().cloned();
            match found {
                Some((8080, sender)) => break sender,
                Some((other, _)) => panic!("{other} was asked for"),
                None => tokio::task::yield_now().await,
            }
        };
        let (mut program, far) = tokio::io::duplex(4096);
        sender.send(far).await.unwrap();
        let (mut served, _): (TcpStream, _) = listener.accept().await.unwrap();
        program.write_all(b"question").await.unwrap();
        let mut question = [0; 8];
        served.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"question");
        served.write_all(b"answer").await.unwrap();
        drop(served);
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        rig.world.closed.cancel();
    };
    let (_, ()) = tokio::join!(rig.run(&options, &["wait"], b""), visiting);
}

#[tokio::test]
async fn a_remote_forward_says_where_it_listens_or_that_it_does_not() {
    let rig = Rig::new().await;
    let cases = [
        (0, 0, format!("Allocated port {FREE_PORT}")),
        (TAKEN_PORT, LOST, "remote port forwarding failed".to_owned()),
    ];
    for (port, status, told) in cases {
        let forward = format!("{port}:127.0.0.1:9");
        let options = ["-o", "ExitOnForwardFailure=yes", "-R", &forward];
        let output = rig.run(&options, &["exit 0"], b"").await;
        assert_eq!(code(&output), status, "{output:?}");
        assert!(output.stderr_tail().contains(&told), "{output:?}");
    }
}

#[tokio::test]
async fn agents_and_x11_are_not_forwarded() {
    let rig = Rig::new().await;
    let output = rig.run(&["-A", "-X"], &["exit 0"], b"").await;
    assert_eq!(code(&output), 0, "{output:?}");
}
