//! The server's API as a client uses it, over a connection that is made inside
//! the server's network. Only what the command line cannot do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tombolo_api::{CONFIG_HEADER, CREATE_PATH, SANDBOX_ID_HEADER};

/// No answer takes longer, and no connection stays open longer after one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and who asks.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it knows the caller by.
    pub token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    head: String,
    /// Everything after the head.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        serde_json::from_slice(&self.body).with_context(text)
    }
}

impl Client {
    /// Creates a sandbox and answers its id. Its session ends at once, so the
    /// configuration has to give it a time to live.
    pub fn create(&self, config: &Value) -> anyhow::Result<String> {
        Ok(self.create_and_stay(config)?.0)
    }

    /// The same, with the connection that did it.
    pub fn create_and_stay(&self, config: &Value) -> anyhow::Result<(String, TcpStream)> {
        let config = STANDARD.encode(config.to_string());
        let head = format!(
            "GET {CREATE_PATH} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             {CONFIG_HEADER}: {config}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.address, self.token
        );
        let (answer, stream) = self.exchange(head.as_bytes())?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 101, "{}: {text}", answer.status);
        let id = answer.header(SANDBOX_ID_HEADER).context("it has an id")?;
        Ok((id.to_owned(), stream))
    }

    /// One request with a body of JSON, or with none.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        // The server ends the connection itself after what may have had a value.
        let keep = if method == "PUT" {
            "keep-alive"
        } else {
            "close"
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: {keep}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        Ok(self.exchange(request.as_bytes())?.0)
    }

    /// The same, which must succeed.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let answer = self.call(method, path, body)?;
        let text = String::from_utf8_lossy(&answer.body);
        let is_done = (200..300).contains(&answer.status);
        ensure!(is_done, "{method} {path}: {} {text}", answer.status);
        Ok(answer)
    }

    fn exchange(&self, request: &[u8]) -> anyhow::Result<(Answer, TcpStream)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(b"\r\n\r\n") {
            ensure!(stream.read(&mut byte)? == 1, "the answer broke off");
            read.extend(byte);
        }
        let head = String::from_utf8(read)?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        let mut body = Vec::new();
        if status != 101 {
            stream.read_to_end(&mut body)?;
        }
        Ok((Answer { status, head, body }, stream))
    }
}
