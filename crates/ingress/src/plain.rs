//! Clients that speak HTTP to the port of TLS, as after a slip in an address. They are
//! told so, as by other servers, instead of finding the connection closed.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    content-length: 61\r\n\
    cache-control: no-store\r\n\
    x-tombolo-ingress: TLS_REQUIRED\r\n\
    connection: close\r\n\r\n\
    This port speaks HTTPS: write https:// instead of http:// .\r\n";
/// How much of a request is read once it is answered, so that the answer arrives: what is
/// left unread makes the system reset the connection.
const READ_MAX: usize = 64 * 1024;

/// Whether a client begins as HTTP does, with the name of a method. TLS begins with the
/// byte 22 (RFC 8446, section 5.1).
pub(crate) async fn is_http(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let len = stream.peek(&mut first).await?;
    Ok(len == 1 && first.iter().all(u8::is_ascii_uppercase))
}

/// Answers, whatever was asked, and waits for the client to be done. The caller bounds
/// how long.
pub(crate) async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(ANSWER.as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = vec![0; 4096];
    let mut len = 0;
    while len < READ_MAX {
        match stream.read(&mut unread).await? {
            0 => break,
            more => len += more,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.lines().any(|line| line == length), "{length}");
    }
}
