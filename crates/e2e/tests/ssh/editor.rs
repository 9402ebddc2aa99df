//! VS Code's Remote-SSH, as far as it can be had without its client and without its
//! download: stock `ssh` with `-D` and a script on standard input, which starts the
//! real remote server of VS Code that is in the sandbox, and the protocol of its client
//! through the SOCKS proxy. The frames and messages are those of VS Code 1.139
//! (`src/vs/base/parts/ipc/common/ipc.net.ts`, `remoteAgentConnection.ts`).

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::time::timeout;
use tombolo_e2e::{World, with_world};

use super::{Door, LIMIT, SANDBOX};

/// Node on an emulated processor that other tests use too.
const START_MAX: Duration = Duration::from_mins(2);
/// What is at its limit is forwarded at once by a window with many extensions.
const CHANNELS: usize = 100;
const BULK_LEN: usize = 256 * 1024;
/// The longest answer that is read whole.
const ANSWER_LEN_MAX: u32 = 1 << 20;

/// What the client's script does, less the download. It is read from standard input
/// while it runs, and leaves the server and its own connection behind.
const SCRIPT: &str = r#"
home=~/.vscode-server
mkdir -p $home
if ! kill -0 "$(cat $home/pid 2> /dev/null)" 2> /dev/null; then
  (umask 077; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > $home/token)
  nohup node /usr/local/lib/code-server/lib/vscode/out/server-main.js \
    --start-server --host=127.0.0.1 --port=0 --connection-token-file $home/token \
    --server-data-dir $home/data --accept-server-license-terms --telemetry-level off \
    --enable-remote-auto-shutdown > $home/log 2>&1 < /dev/null &
  echo $! > $home/pid
fi
until port=$(grep -oP 'host agent listening on \K[0-9]+' $home/log); do
  kill -0 "$(cat $home/pid)" || { cat $home/log >&2; exit 1; }
  sleep 0.2
done
echo "$port $(cat $home/token) $(cat $home/pid)"
exec cat > /dev/null
"#;

/// Sends back what it is sent, on a port that it prints, until its input ends.
const ECHO: &str = r#"
import asyncio, sys
async def echo(reader, writer):
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=200)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_works_through_a_socks_proxy_and_comes_back() {
    with_world(LIMIT, edits).await;
}

async fn edits(world: Arc<World>) -> anyhow::Result<()> {
    let id = world.create().await?;
    let door = Door::open_by_key(&world, &id).await?;
    let mut first = Remote::start(&door).await?;
    let product = "grep -oP '^  \"commit\": \"\\K[0-9a-f]{40}' /usr/local/lib/code-server/lib/vscode/product.json";
    let commit = world.shell_text(&id, product).await?;
    let version = first.get("/version").await?;
    ensure!(version == commit, "{version:?} is not {commit:?}");

    let (session, host) = ("the-session-of-a-test", "the-extension-host-of-a-test");
    let stranger = first.join(session, Kind::Management, "wrong", false);
    let (_, refused) = stranger.await?;
    ensure!(refused["type"] == "error", "{refused}");
    let (files, joined) = first
        .join(session, Kind::Management, &first.token, false)
        .await?;
    ensure!(joined["type"] == "ok", "{joined}");
    let (mut extensions, _) = first
        .join(host, Kind::ExtensionHost, &first.token, false)
        .await?;
    // The byte by which an extension host says that it is ready.
    let ready = timeout(START_MAX, extensions.message(Frame::REGULAR)).await;
    ensure!(ready.context("no extension host")?? == [2]);
    bulk(&door, &first).await?;

    first.lose().await?;
    drop(files);
    let mut second = Remote::start(&door).await?;
    let same = (second.port, &second.token, &second.pid) == (first.port, &first.token, &first.pid);
    ensure!(same, "{second:?} is not {first:?}");
    for (session, kind) in [(session, Kind::Management), (host, Kind::ExtensionHost)] {
        let (_, again) = second.join(session, kind, &second.token, true).await?;
        ensure!(again["type"] != "error", "{session}: {again}");
    }
    let unknown = second.join("another", Kind::Management, &second.token, true);
    let (_, unknown) = unknown.await?;
    ensure!(unknown["type"] == "error", "{unknown}");
    second.lose().await?;
    world.kill(&id).await
}

/// As many channels as an editor may have, all used at once, in both directions.
async fn bulk(door: &Door, remote: &Remote) -> anyhow::Result<()> {
    let program = format!("exec python3 -c '{ECHO}'");
    let echo = door.client("ssh").args(["-T", SANDBOX]).arg(program);
    let mut echo = echo.spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
    let port = first_line(&mut echo).await?.parse()?;
    let visits = (0..CHANNELS).map(|channel| async move {
        let stream = remote.connect(port).await?;
        let (mut reader, mut writer) = stream.into_split();
        let sent: Vec<u8> = (0..=250).cycle().skip(channel).take(BULK_LEN).collect();
        let send = async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        };
        let mut back = Vec::with_capacity(BULK_LEN);
        tokio::try_join!(send, reader.read_to_end(&mut back))?;
        ensure!(back == sent, "channel {channel}: {} bytes", back.len());
        Ok(())
    });
    timeout(START_MAX, try_join_all(visits)).await??;
    drop(echo.stdin.take());
    echo.wait().await?;
    Ok(())
}

async fn first_line(child: &mut Child) -> anyhow::Result<String> {
    let output = child.stdout.take().context("it is piped")?;
    let mut line = String::new();
    let mut reader = BufReader::new(output);
    timeout(START_MAX, reader.read_line(&mut line)).await??;
    Ok(line.trim().to_owned())
}

/// A client's `ssh`, and what its script told.
#[derive(Debug)]
struct Remote {
    ssh: Child,
    /// Of the proxy, on this side.
    socks: u16,
    /// Of the server, in the sandbox.
    port: u16,
    token: String,
    pid: String,
}

impl Remote {
    async fn start(door: &Door) -> anyhow::Result<Self> {
        // `ssh` takes no 0 here, so a free port is found first.
        let socks = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let ssh = door
            .client("ssh")
            .args(["-T", "-o", "ExitOnForwardFailure=yes", "-D"])
            .arg(socks.to_string())
            .args([SANDBOX, "bash"])
            .kill_on_drop(true);
        let mut ssh = ssh.spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())?;
        // The real one is as long.
        let script = "# What the real script says in 30 kilobytes.\n".repeat(700) + SCRIPT;
        let stdin = ssh.stdin.as_mut().context("it is piped")?;
        stdin.write_all(script.as_bytes()).await?;
        let told = first_line(&mut ssh).await?;
        let mut words = told.split(' ').map(str::to_owned);
        let mut next = || words.next().with_context(|| format!("it told {told:?}"));
        Ok(Self {
            port: next()?.parse().with_context(|| told.clone())?,
            token: next()?,
            pid: next()?,
            ssh,
            socks,
        })
    }

    /// The connection is lost, as when a lid is closed.
    async fn lose(&mut self) -> anyhow::Result<()> {
        self.ssh.kill().await.context("ssh is gone already")
    }

    /// Through the proxy: RFC 1928.
    async fn connect(&self, port: u16) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.socks)).await?;
        stream.write_all(&[5, 1, 0]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        let [high, low] = port.to_be_bytes();
        stream
            .write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low])
            .await?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await?;
        ensure!(chosen == [5, 0] && answer[1] == 0, "{chosen:?} {answer:?}");
        Ok(stream)
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = self.connect(self.port).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        // One chunk, if it comes in chunks.
        let mut lines = body.lines();
        let first = lines.next().unwrap_or_default();
        Ok(lines.next().unwrap_or(first).to_owned())
    }

    /// A connection of the editor, and what the server says of it.
    async fn join(
        &self,
        session: &str,
        kind: Kind,
        token: &str,
        again: bool,
    ) -> anyhow::Result<(Frames, Value)> {
        let mut stream = self.connect(self.port).await?;
        let request = format!(
            "GET /?reconnectionToken={session}&reconnection={again}&skipWebSocketFrames=true \
             HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        // RFC 6455's own example of a key and its answer.
        let is_upgraded = head.starts_with("HTTP/1.1 101 ")
            && head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n");
        ensure!(is_upgraded, "{head}");
        let mut frames = Frames(stream);
        let auth = json!({"type": "auth", "auth": token, "data": "any"});
        frames.send(&auth).await?;
        let signed: Value = serde_json::from_slice(&frames.message(Frame::CONTROL).await?)?;
        if signed["type"] != "sign" {
            return Ok((frames, signed));
        }
        let kind = json!({
            "type": "connectionType", "signedData": signed["data"],
            "desiredConnectionType": kind as u8, "args": {"language": "en"},
        });
        frames.send(&kind).await?;
        let said = frames.message(Frame::CONTROL).await?;
        Ok((frames, serde_json::from_slice(&said)?))
    }
}

/// What a connection of an editor is for.
#[derive(Clone, Copy)]
enum Kind {
    /// Files, terminals, extensions.
    Management = 1,
    ExtensionHost = 2,
}

/// Types of messages.
struct Frame;

impl Frame {
    const REGULAR: u8 = 1;
    const CONTROL: u8 = 2;
}

/// Messages: a type, two numbers, a length, and so many bytes.
struct Frames(TcpStream);

impl Frames {
    async fn send(&mut self, message: &Value) -> anyhow::Result<()> {
        let body = message.to_string();
        let mut frame = vec![Frame::CONTROL, 0, 0, 0, 0, 0, 0, 0, 0];
        frame.extend(u32::try_from(body.len())?.to_be_bytes());
        frame.extend(body.as_bytes());
        Ok(self.0.write_all(&frame).await?)
    }

    /// The next message of a type.
    async fn message(&mut self, wanted: u8) -> anyhow::Result<Vec<u8>> {
        loop {
            let kind = self.0.read_u8().await?;
            let _numbers = self.0.read_u64().await?;
            let len = self.0.read_u32().await?;
            ensure!(len <= ANSWER_LEN_MAX, "a message of {len} bytes");
            let mut body = vec![0; len as usize];
            self.0.read_exact(&mut body).await?;
            if kind == wanted {
                return Ok(body);
            }
        }
    }
}
