//! Clients that no stock program is: what they can take is bounded.

use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelMsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rig::{Rig, USER};
use crate::Limits;

/// Longer than anything here takes.
const BOUND: Duration = Duration::from_mins(1);

/// A key that the gateway cannot verify.
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDpCcnzhbxthfbq+AcfQSCBbZ5CwlnoCY8hZoWR7SU/HY5EhFo++LlSEhL+suA6pSxW+K6gNQY69PHoAn4tEJp3pG5747htYpi1iXqQJNHtVP4+0yVSlxtaPjQMS0/CVJX0tTeJzzdGf8YCvmQ4XZ9TlYnVFILKJgot1AEA/3jlFw== me";

struct Client;

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn enter(rig: &Rig) -> Handle<Client> {
    let config = client::Config::default().into();
    let mut handle = client::connect(config, rig.address(), Client)
        .await
        .unwrap();
    assert!(handle.authenticate_none(USER).await.unwrap().success());
    handle
}

/// Whether the gateway ends the connection.
async fn is_ended(mut channel: Channel<client::Msg>) -> bool {
    let ending = async { while channel.wait().await.is_some() {} };
    timeout(BOUND, ending).await.is_ok()
}

#[tokio::test]
async fn requests_for_nothing_end_the_connection() {
    let rig = Rig::new().await;
    let client = enter(&rig).await;
    let channel = client.channel_open_session().await.unwrap();
    let value = "x".repeat(100 * 1024);
    for _ in 0..20 {
        if channel.set_env(false, "A", value.clone()).await.is_err() {
            break;
        }
    }
    assert!(is_ended(channel).await);

    // Small ones cost what their messages do, on however many channels.
    let client = enter(&rig).await;
    let one = client.channel_open_session().await.unwrap();
    let other = client.channel_open_session().await.unwrap();
    for _ in 0..3000 {
        if one.window_change(1, 1, 1, 1).await.is_err()
            || other.signal(russh::Sig::INT).await.is_err()
        {
            break;
        }
    }
    assert!(is_ended(one).await);
}

#[tokio::test]
async fn a_sandbox_that_takes_no_signal_holds_up_no_input() {
    let limits = Limits {
        tell_timeout: Duration::from_millis(1),
        ..Limits::STANDARD
    };
    let rig = Rig::with(limits).await;
    let client = enter(&rig).await;
    let mut channel = client.channel_open_session().await.unwrap();
    channel.exec(false, "deaf").await.unwrap();
    for _ in 0..3 {
        channel.window_change(80, 25, 0, 0).await.unwrap();
    }
    channel.data(&b"through"[..]).await.unwrap();
    channel.eof().await.unwrap();
    let mut told = Vec::new();
    let reading = async {
        while let Some(message) = channel.wait().await {
            if let ChannelMsg::Data { data } = message {
                told.extend_from_slice(&data);
            }
        }
    };
    timeout(BOUND, reading).await.unwrap();
    assert_eq!(told, b"through");
}

#[tokio::test]
async fn what_a_closed_channel_held_is_given_back() {
    let limits = Limits {
        held_len_max: 100 * 1024,
        ..Limits::STANDARD
    };
    let rig = Rig::with(limits).await;
    let client = enter(&rig).await;
    let value = "x".repeat(60 * 1024);
    for _ in 0..5 {
        let opening = timeout(BOUND, client.channel_open_session());
        let mut channel = opening.await.unwrap().unwrap();
        channel.set_env(true, "A", value.clone()).await.unwrap();
        let answer = timeout(BOUND, channel.wait()).await.unwrap();
        assert!(matches!(answer, Some(ChannelMsg::Failure)), "{answer:?}");
        channel.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_forward_that_ended_can_be_asked_for_again() {
    let rig = Rig::new().await;
    let client = enter(&rig).await;
    client.tcpip_forward("localhost", 8080).await.unwrap();
    assert!(client.tcpip_forward("localhost", 8080).await.is_err());
    rig.world.forwards.lock().clear();
    let asking = async { while client.tcpip_forward("localhost", 8080).await.is_err() {} };
    timeout(BOUND, asking).await.unwrap();
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_one_sandbox() {
    let few = Limits {
        entering_of_address_max: 1,
        ..Limits::STANDARD
    };
    let fewer = Limits {
        connections_of_address_max: 1,
        ..Limits::STANDARD
    };
    for limits in [few, fewer] {
        let rig = Rig::with(limits).await;
        let mut held = TcpStream::connect(rig.address()).await.unwrap();
        // Once it speaks, it is counted.
        assert_eq!(held.read_u8().await.unwrap(), b'S');
        let output = rig.run(&[], &["exit 0"], b"").await;
        assert_eq!(output.status.code(), Some(255), "{output:?}");
    }
    let rig = Rig::with(Limits {
        connections_of_sandbox_max: 1,
        entering_of_address_max: 1,
        ..Limits::STANDARD
    })
    .await;
    let _client = enter(&rig).await;
    let output = rig.run(&[], &["exit 0"], b"").await;
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("as many SSH connections"), "{complaint}");
}

#[tokio::test]
async fn who_connects_again_and_again_and_says_nothing_is_not_heard() {
    let rig = Rig::with(Limits {
        failures_max: 1,
        ..Limits::STANDARD
    })
    .await;
    let refusing = async {
        let mut heard = 0;
        loop {
            let mut stream = TcpStream::connect(rig.address()).await.unwrap();
            // A connection that is closed unheard may be reset.
            if stream.read_u8().await.is_err() {
                break heard;
            }
            heard += 1;
            stream.shutdown().await.unwrap();
            while stream.read_u8().await.is_ok() {}
        }
    };
    let heard = timeout(BOUND, refusing).await.unwrap();
    assert!(heard >= 5, "{heard}");
}

#[test]
fn only_keys_that_can_be_proved_are_taken() {
    let ed25519 =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILSvg2j8hpvAQsd9ClNVp2FTwRPvDeqANUsSwg06Wkdi me";
    let key: crate::Key = ed25519.parse().unwrap();
    assert_eq!(key.to_line().unwrap(), ed25519.strip_suffix(" me").unwrap());
    let rsa = RSA.parse::<crate::Key>().unwrap_err().to_string();
    assert!(rsa.contains("no ssh-rsa"), "{rsa}");
}
