//! Forwarded connections: RFC 4254, section 7, and those of Unix sockets: OpenSSH's
//! `PROTOCOL`, section 2.4.

use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelReadHalf};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::backend::{ConnectError, Forwarded, Sandbox};
use crate::pace::{Gauge, Held, Output};
use crate::session::{drain, feed};
use crate::shared::Shared;

/// What clients call the sandbox's own loopback.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Connects a channel that the client opened (`ssh -L`) to a program.
pub(crate) async fn direct<S: Sandbox>(
    shared: Shared<S>,
    channel: Channel<Msg>,
    connecting: impl Future<Output = Result<S::Stream, ConnectError>> + Send,
    reply: ChannelOpenHandle,
) {
    let failure = match timeout(shared.limits.start_timeout, connecting).await {
        Ok(Ok(stream)) => {
            reply.accept().await;
            return relay(channel, stream, &shared.gauge).await;
        }
        Ok(Err(ConnectError::TooMany)) => ChannelOpenFailure::ResourceShortage,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a forward leads nowhere");
            ChannelOpenFailure::ConnectFailed
        }
        Err(_elapsed) => ChannelOpenFailure::ConnectFailed,
    };
    reply.reject(failure).await;
}

/// Opens a channel for each connection that programs make to a forwarded port
/// (`ssh -R`). `address` is what the client called it.
pub(crate) async fn remote<S: Sandbox>(
    shared: Shared<S>,
    address: String,
    mut forwarded: Forwarded<S::Stream>,
) {
    let port = u32::from(forwarded.port.get());
    while let Some(stream) = forwarded.streams.recv().await {
        // Whoever finds all channels taken is hung up on.
        let Some(slot) = shared.slot() else { continue };
        let opening = open(shared.handle.clone(), address.clone(), port);
        let gauge = shared.gauge.clone();
        shared.tasks.spawn(async move {
            match opening.await {
                Ok(channel) => {
                    // `russh` took the client's confirmation from the queue itself.
                    gauge.taken(0);
                    relay(channel, stream, &gauge).await;
                }
                Err(error) => tracing::debug!(%error, "the client takes no connection"),
            }
            drop(slot);
        });
    }
}

async fn open(handle: Handle, address: String, port: u32) -> Result<Channel<Msg>, russh::Error> {
    handle
        .channel_open_forwarded_tcpip(address, port, "127.0.0.1", 0)
        .await
}

async fn relay<T>(channel: Channel<Msg>, stream: T, gauge: &Gauge)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, write) = channel.split();
    let (mut from, to) = tokio::io::split(stream);
    let (chunks, queue) = mpsc::unbounded_channel();
    let mut out = Output::new(write.make_writer(), gauge.clone());
    let answer = async {
        // An error of either side ends it as its end would.
        if let Err(error) = tokio::io::copy(&mut from, &mut out).await {
            tracing::debug!(%error, "a forwarded connection broke off");
        }
        if let Err(error) = out.shutdown().await {
            tracing::debug!(%error, "the client is gone already");
        }
    };
    tokio::select! {
        // Each side may go on when the other has sent all.
        ((), ()) = async { tokio::join!(answer, feed(to, queue)) } => {}
        () = listen(&mut read, gauge, chunks) => {}
    }
    if let Err(error) = write.close().await {
        tracing::debug!(%error, "the client is gone already");
    }
    drop(write);
    drain(&mut read, gauge).await;
}

async fn listen(read: &mut ChannelReadHalf, gauge: &Gauge, chunks: mpsc::UnboundedSender<Held>) {
    let mut chunks = Some(chunks);
    while let Some(message) = read.wait().await {
        gauge.take(&message);
        match message {
            ChannelMsg::Data { data } => {
                let held = gauge.hold(data);
                if let Some(chunks) = &chunks
                    && chunks.send(held).is_err()
                {
                    tracing::trace!("data after its end");
                }
            }
            ChannelMsg::Eof => chunks = None,
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_forwarded_to() {
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "10.0.0.1",
            "0.0.0.0",
            "localhost.evil",
            "fe80::1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
