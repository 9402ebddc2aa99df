//! The sockets of the zone: datagrams, and connections for who prefers them (RFC 7766).

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tombolo_diag::log_limited;

use super::answer::Zone;

/// The longest question that is looked at.
const QUESTION_LEN_MAX: usize = 1500;
const CONNECTIONS_MAX: usize = 32;
/// How long one connection may stay, whatever it asks.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when a socket fails.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(udp: &UdpSocket, tcp: &TcpListener, zone: &Zone) -> Infallible {
    tokio::select! {
        never = datagrams(udp, zone) => never,
        never = connections(tcp, zone) => never,
    }
}

async fn datagrams(socket: &UdpSocket, zone: &Zone) -> Infallible {
    let mut buffer = [0; QUESTION_LEN_MAX];
    loop {
        let (len, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                log_limited!(warn, %error, "no questions of the DNS can be taken");
                sleep(FAILED_PAUSE).await;
                continue;
            }
        };
        let Some(answer) = zone.answer(buffer.get(..len).unwrap_or_default()) else {
            continue;
        };
        // Whoever asks says where from: an answer that cannot be sent holds up nobody.
        if let Err(error) = socket.send_to(&answer, client).await {
            log_limited!(debug, %error, "a question of the DNS was not answered");
        }
    }
}

async fn connections(listener: &TcpListener, zone: &Zone) -> Infallible {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _client)) => {
                let zone = zone.clone();
                tokio::spawn(async move {
                    let served = timeout(CONNECTION_TIMEOUT, connection(stream, &zone)).await;
                    if let Ok(Err(error)) = served {
                        log_limited!(debug, %error, "a connection for the DNS ended badly");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                log_limited!(warn, %error, "a connection for the DNS was not accepted");
                sleep(FAILED_PAUSE).await;
            }
        }
    }
}

/// Messages come with their length in two octets (RFC 1035, 4.2.2).
async fn connection(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    loop {
        let len = match stream.read_u16().await {
            Ok(len) => usize::from(len),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        if len > QUESTION_LEN_MAX {
            return Ok(());
        }
        let mut question = vec![0; len];
        stream.read_exact(&mut question).await?;
        let Some(answer) = zone.answer(&question) else {
            return Ok(());
        };
        let Ok(len) = u16::try_from(answer.len()) else {
            return Ok(());
        };
        stream.write_u16(len).await?;
        stream.write_all(&answer).await?;
    }
}
