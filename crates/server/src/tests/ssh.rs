//! SSH as the stock client meets it, before sandboxes of the test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tombolo_guest_proto::v1::WaitReply;
use tombolo_proc::{Command, Output};
use tombolo_ssh::Limits;
use tombolo_testkit::{FREE_PORT, FakeAgent, Script, eventually, within};

use super::harness::{Socket, World};
use crate::config::SshOptions;

/// What OpenSSH's client answers when it has no connection, or loses it.
const LOST: i32 = 255;
const KEYS: &str = "/api/tombolo/v1/ssh-keys";

pub(super) fn options(directory: &Path) -> SshOptions {
    SshOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        host: "sandboxes.test".to_owned(),
        key_file: directory.join("ssh_host_key"),
        limits: Limits {
            refusal_time: Duration::from_millis(1),
            ..Limits::STANDARD
        },
    }
}

impl World {
    /// A sandbox whose shell ends with 7, whatever it is told.
    async fn with_shell(&self) -> Socket {
        let socket = self.create("{}").await.unwrap();
        let exit = WaitReply {
            code: 7,
            ..WaitReply::default()
        };
        let script = Script {
            stdout: b"from the guest".to_vec(),
            stderr: Vec::new(),
            exit: Some(exit),
        };
        let agent = self.node.agent(&socket.id()).unwrap();
        agent.script("/bin/bash", script);
        socket
    }

    async fn expose_ssh(&self, id: &str) -> Value {
        let path = format!("/api/v3/sandbox/{id}/expose/ssh");
        let answer = self
            .send(Method::POST, &path, &self.token, Some(json!({})))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json
    }

    async fn ssh(&self, user: &str, options: &[&str], line: &str) -> Output {
        let command = self.ssh_command(user, options).arg(line);
        command.output().await.unwrap()
    }

    fn ssh_command(&self, user: &str, options: &[&str]) -> Command {
        let address = self.server.as_ref().unwrap().addresses().ssh.unwrap();
        Command::new("ssh")
            .args([
                "-F",
                "none",
                "-T",
                "-o",
                "BatchMode=yes",
                "-o",
                "LogLevel=ERROR",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["-p", &address.port().to_string()])
            .args(options)
            .arg(format!("{user}@127.0.0.1"))
            .deadline(Duration::from_mins(1))
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn username(exposed: &Value) -> String {
    exposed["username"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_user_name_opens_its_sandbox_until_it_is_taken_back() {
    let mut world = World::new().await;
    let socket = world.with_shell().await;
    let exposed = world.expose_ssh(&socket.id()).await;
    assert_eq!(exposed["hostname"], "sandboxes.test");
    let port = world
        .server
        .as_ref()
        .unwrap()
        .addresses()
        .ssh
        .unwrap()
        .port();
    assert_eq!(exposed["port"], port);
    let name = username(&exposed);
    assert!(name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(name, username(&world.expose_ssh(&socket.id()).await));
    let output = world.ssh(&name, &[], "exit 7").await;
    assert_eq!(code(&output), 7, "{output:?}");
    assert_eq!(output.stdout_text(), "from the guest");
    assert_eq!(code(&world.ssh(&socket.id(), &[], "exit 7").await), LOST);
    // A server that is started again knows the name and is known by its key.
    world.stop_server().await;
    world.start_server().await;
    world.followed().await;
    assert_eq!(code(&world.ssh(&name, &[], "exit 7").await), 7);
    let path = format!("/api/tombolo/v1/sandboxes/{}/ssh", socket.id());
    assert_eq!(world.delete(&path).await.status, 204);
    assert_eq!(code(&world.ssh(&name, &[], "exit 7").await), LOST);
}

#[tokio::test]
async fn a_user_name_ends_with_its_sandbox() {
    let world = World::new().await;
    let socket = world.with_shell().await;
    let name = username(&world.expose_ssh(&socket.id()).await);
    let path = format!("/api/v3/sandbox/{}", socket.id());
    let ended = world.delete(&path).await;
    assert!(ended.status.is_success(), "{ended:?}");
    assert_eq!(code(&world.ssh(&name, &[], "exit 7").await), LOST);
    let path = format!("/api/v3/sandbox/{}/expose/ssh", socket.id());
    let answer = world
        .send(Method::POST, &path, &world.token, Some(json!({})))
        .await;
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[tokio::test]
async fn a_key_opens_the_sandboxes_of_its_organisation_and_no_others() {
    let world = World::new().await;
    let socket = world.with_shell().await;
    let file = world.node.directory().join("id");
    let make = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "me", "-f"]);
    make.arg(&file).run().await.unwrap();
    let line = fs_err::read_to_string(file.with_extension("pub")).unwrap();
    let identity = format!("IdentityFile={}", file.display());
    let options = ["-o", identity.as_str(), "-o", "IdentitiesOnly=yes"];
    let id = socket.id();
    assert_eq!(code(&world.ssh(&id, &options, "exit 7").await), LOST);
    let other = world.new_token("other").await;
    let body = Some(json!({ "key": line }));
    let added = world.send(Method::POST, KEYS, &other, body.clone()).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(code(&world.ssh(&id, &options, "exit 7").await), LOST);
    let added = world.send(Method::POST, KEYS, &world.token, body).await;
    assert_eq!(added.json["name"], "me");
    assert_eq!(code(&world.ssh(&id, &options, "exit 7").await), 7);
    let listed = world.get(KEYS).await.json;
    assert_eq!(listed, json!([added.json]));
    let fingerprint = added.json["fingerprint"].as_str().unwrap();
    let fingerprint = fingerprint.replace('/', "%2F").replace('+', "%2B");
    let removed = world.delete(&format!("{KEYS}/{fingerprint}")).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    assert_eq!(code(&world.ssh(&id, &options, "exit 7").await), LOST);
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let world = World::new().await;
    for key in ["", "nonsense", "ssh-ed25519", "ssh-ed25519 AAAA me"] {
        let body = Some(json!({ "key": key }));
        let answer = world.send(Method::POST, KEYS, &world.token, body).await;
        assert_eq!(answer.status, 400, "{key}: {answer:?}");
    }
}

/// What a program of the guest is answered through a forwarded port that is not
/// at `before`, and where that is.
async fn visit(agent: &FakeAgent, before: Option<SocketAddr>) -> (String, SocketAddr) {
    let there = || async {
        let there = agent.listening(FREE_PORT);
        there.filter(|there| Some(*there) != before)
    };
    let address = eventually("the port is forwarded", there).await;
    let mut program = TcpStream::connect(address).await.unwrap();
    let mut heard = String::new();
    let answer = program.read_to_string(&mut heard);
    within("an answer", answer).await.unwrap();
    (heard, address)
}

#[tokio::test]
async fn a_remote_forward_outlives_the_node_and_ends_with_its_client() {
    let mut world = World::new().await;
    let socket = world.with_shell().await;
    let agent = world.node.agent(&socket.id()).unwrap();
    let name = username(&world.expose_ssh(&socket.id()).await);
    let served = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = format!("0:{}", served.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = served.accept().await {
            stream.write_all(b"from outside").await.unwrap();
        }
    });
    let options = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", &forward];
    let client = world.ssh_command(&name, &options);
    let client = client.spawn(Stdio::null(), Stdio::null(), Stdio::inherit());
    let (heard, address) = visit(&agent, None).await;
    assert_eq!(heard, "from outside");
    world.node.restart().unwrap();
    let (heard, _) = visit(&agent, Some(address)).await;
    assert_eq!(heard, "from outside");
    drop(client);
    let gone = || async { agent.listening(FREE_PORT).is_none().then_some(()) };
    eventually("the port is not forwarded any more", gone).await;
    serving.abort();
}
