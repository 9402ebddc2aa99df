//! `WebSocket`s (RFC 6455): both handshakes are verified, and whole messages are relayed, so
//! that nothing passes that is not a WebSocket (HTTP-14).
//!
//! Extensions are not offered to the host: compressed messages could not be searched. Pings
//! are answered at each end.

use std::{sync::Arc, time::Duration};

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tombolo_substitute::{RequestSubstitution, ScrubMode, Slot};

use super::{
    Exchange, HttpFlow, Stop,
    decide::Decided,
    open::Terms,
    request_body::Meter,
    response::{self, Reply},
    search::STAGES_MAX,
};
use crate::{
    audit::Draft,
    rules::Rules,
    upstream::{Alpn, Lease},
};

/// The longest message in either direction.
const MESSAGE_LEN_MAX: usize = 16 << 20;
/// How long the ends may take to part.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl Exchange {
    /// Makes the handshake with the host and, if it agrees, joins the two.
    pub(super) async fn websocket(
        &mut self,
        mut parts: Parts,
        decided: Decided,
        terms: &Arc<Terms>,
    ) -> Result<Reply, Stop> {
        self.draft.record.proto = "ws";
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        let (Some(key), Some(guest)) = (key, parts.extensions.remove::<OnUpgrade>()) else {
            return Err(not_websocket());
        };
        let sandbox = Arc::clone(&self.flow.flow.sandbox);
        let room = sandbox.admit_websocket().ok_or_else(too_many)?;
        parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
        let mut substitution = self.substitution();
        self.write_head(&mut parts, &decided.path, substitution.as_mut())?;
        if let Some(substitution) = &substitution {
            terms.expect(substitution.usable(Slot::WebSocket));
        }
        self.commit_values(substitution.as_mut(), terms).await?;
        upgrade_headers(&mut parts.headers);
        parts.extensions.clear();
        let pool_key = self.pool_key(Alpn::Http1);
        let connection = sandbox.pool.connect(&self.rules.policy, &pool_key).await?;
        self.draft.record.resolved_ip = Some(connection.address.ip().to_string());
        self.draft.record.overridden = connection.overridden;
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::from_parts(parts, body);
        let sent = sandbox
            .pool
            .send(&self.rules.policy, pool_key, connection, request)
            .await?;
        if sent.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return response::take(self, sent, false, Meter::of(terms)).await;
        }
        check_handshake(&sent.response, &key)?;
        let (mut head, _empty) = sent.response.into_parts();
        let Some(host) = head.extensions.remove::<OnUpgrade>() else {
            return Err(Stop::upstream("upstream_websocket"));
        };
        response::clean(&mut head);
        self.draft.record.scrubbed +=
            response::scrub_headers(&sandbox, &self.rules, &mut head.headers);
        upgrade_headers(&mut head.headers);
        self.draft.record.status = Some(head.status.as_u16());
        let (draft, receive_draft) = oneshot::channel();
        let tunnel = Tunnel {
            flow: Arc::clone(&self.flow),
            searched: Mutex::new(vec![Arc::clone(&self.rules)]),
            substitution: Mutex::new(substitution),
            terms: Arc::clone(terms),
            _lease: sent.lease,
            _room: room,
        };
        sandbox.tasks.spawn(tunnel.run(guest, host, receive_draft));
        Ok(Reply::bare(head).with_tunnel(draft))
    }
}

fn not_websocket() -> Stop {
    Stop::refused(
        StatusCode::BAD_REQUEST,
        "websocket_handshake",
        "This is not a handshake of WebSocket version 13.",
    )
}

fn too_many() -> Stop {
    Stop::refused(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_websockets",
        "This sandbox has too many WebSockets open.",
    )
}

fn upgrade_headers(headers: &mut http::HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// RFC 6455, section 4.1: what makes a client fail the connection.
fn check_handshake<B>(response: &Response<B>, key: &HeaderValue) -> Result<(), Stop> {
    let headers = response.headers();
    let is = |name, expected: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().is_some_and(|value: &HeaderValue| {
            value.as_bytes().eq_ignore_ascii_case(expected.as_bytes())
        });
        first && values.next().is_none()
    };
    let accepted = derive_accept_key(key.as_bytes());
    let is_accepted = headers
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|value| value.as_bytes() == accepted.as_bytes());
    let is_plain = !headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS);
    if is(header::UPGRADE, "websocket") && is_accepted && is_plain {
        return Ok(());
    }
    Err(Stop::upstream("upstream_websocket"))
}

/// Two joined ends.
struct Tunnel {
    flow: Arc<HttpFlow>,
    /// What messages are searched by: the rules of the beginning, and those since then that
    /// have other secrets.
    searched: Mutex<Vec<Arc<Rules>>>,
    substitution: Mutex<Option<RequestSubstitution>>,
    terms: Arc<Terms>,
    _lease: Lease,
    _room: OwnedSemaphorePermit,
}

/// Bytes of messages, by direction, for the record.
#[derive(Debug, Default)]
struct Sums {
    from_guest: u64,
    to_guest: u64,
    scrubbed: u64,
}

/// Why a tunnel ended before it was closed in good order.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("the guest's end broke")]
    Guest(#[source] tungstenite::Error),
    #[error("the host's end broke")]
    Host(#[source] tungstenite::Error),
    #[error("a message cannot be searched")]
    TooLarge,
    #[error("secrets changed too often while messages flowed")]
    SecretsChanged,
}

impl TunnelError {
    fn code(&self) -> &'static str {
        match self {
            Self::Guest(tungstenite::Error::Protocol(_) | tungstenite::Error::Utf8(_)) => {
                "websocket_protocol"
            }
            Self::Guest(_) => "websocket_guest",
            Self::Host(_) => "websocket_host",
            Self::TooLarge => "message_too_large",
            Self::SecretsChanged => "secrets_changed",
        }
    }
}

impl Tunnel {
    async fn run(self, guest: OnUpgrade, host: OnUpgrade, draft: oneshot::Receiver<Draft>) {
        let Ok(mut draft) = draft.await else {
            // The answer was never sent, and its record is written already.
            return;
        };
        let sandbox = Arc::clone(&self.flow.flow.sandbox);
        let sums = Mutex::new(Sums::default());
        let mut watch = self.terms.watch();
        let ended = tokio::select! {
            ended = self.join(guest, host, &sums) => ended,
            () = sandbox.until_revoked(&self.flow.flow.place) => Some("policy_changed"),
            code = watch.ended() => Some(code),
            () = sandbox.closed.cancelled() => Some("sandbox_ended"),
        };
        let record = &mut draft.record;
        record.err = ended;
        let sums = sums.into_inner();
        record.req_bytes = sums.from_guest;
        record.resp_bytes = sums.to_guest;
        record.scrubbed += sums.scrubbed;
        if let Some(substitution) = self.substitution.lock().as_ref() {
            // The findings of the head are in it as well, and are there once already.
            record.secrets.clear();
            record.ineligible.clear();
            record.found(substitution.findings());
        }
    }

    async fn join(
        &self,
        guest: OnUpgrade,
        host: OnUpgrade,
        sums: &Mutex<Sums>,
    ) -> Option<&'static str> {
        let (Ok(guest), Ok(host)) = (guest.await, host.await) else {
            return Some("websocket_upgrade");
        };
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(MESSAGE_LEN_MAX);
        config.max_frame_size = Some(MESSAGE_LEN_MAX);
        let guest =
            WebSocketStream::from_raw_socket(TokioIo::new(guest), Role::Server, Some(config));
        let host = WebSocketStream::from_raw_socket(TokioIo::new(host), Role::Client, Some(config));
        let (guest, host) = tokio::join!(guest, host);
        let (mut to_guest, from_guest) = guest.split();
        let (mut to_host, from_host) = host.split();
        let ended = tokio::select! {
            ended = self.pass_to_host(from_guest, &mut to_host, sums) => ended,
            ended = self.pass_to_guest(from_host, &mut to_guest, sums) => ended,
        };
        if let Err(error) = &ended {
            let close = Message::Close(Some(close_frame(error)));
            // Either end may be gone already.
            drop(timeout(CLOSE_TIMEOUT, to_guest.send(close)).await);
        }
        drop(timeout(CLOSE_TIMEOUT, to_host.close()).await);
        drop(timeout(CLOSE_TIMEOUT, to_guest.close()).await);
        ended.err().map(|error| error.code())
    }

    async fn pass_to_host(
        &self,
        mut messages: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
        host: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
        sums: &Mutex<Sums>,
    ) -> Result<(), TunnelError> {
        while let Some(message) = messages.next().await {
            let message = message.map_err(TunnelError::Guest)?;
            sums.lock().from_guest += message.len() as u64;
            let message = match message {
                Message::Text(text) => Message::Text(self.substitute(text)?),
                Message::Binary(_) | Message::Close(_) => message,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let is_last = message.is_close();
            host.send(message).await.map_err(TunnelError::Host)?;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    async fn pass_to_guest(
        &self,
        mut messages: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
        guest: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
        sums: &Mutex<Sums>,
    ) -> Result<(), TunnelError> {
        while let Some(message) = messages.next().await {
            let message = match message.map_err(TunnelError::Host)? {
                Message::Text(text) => {
                    match self.scrub(ScrubMode::Placeholder, text.as_bytes(), sums)? {
                        Some(clean) => Message::text(String::from_utf8_lossy(&clean).into_owned()),
                        None => Message::Text(text),
                    }
                }
                Message::Binary(bytes) => match self.scrub(ScrubMode::Mask, &bytes, sums)? {
                    Some(clean) => Message::binary(clean),
                    None => Message::Binary(bytes),
                },
                // Its reason has at most 123 bytes: as many asterisks fit for certain.
                Message::Close(Some(frame)) => Message::Close(Some(CloseFrame {
                    reason: match self.scrub(ScrubMode::Mask, frame.reason.as_bytes(), sums)? {
                        Some(clean) => String::from_utf8_lossy(&clean).into_owned().into(),
                        None => frame.reason,
                    },
                    code: frame.code,
                })),
                Message::Close(None) => Message::Close(None),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            sums.lock().to_guest += message.len() as u64;
            let is_last = message.is_close();
            guest.send(message).await.map_err(TunnelError::Guest)?;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    fn substitute(&self, text: Utf8Bytes) -> Result<Utf8Bytes, TunnelError> {
        let mut substitution = self.substitution.lock();
        let Some(substitution) = substitution.as_mut().filter(|own| own.wants_websocket()) else {
            return Ok(text);
        };
        match substitution.websocket_text(text.as_bytes()) {
            Ok(None) => Ok(text),
            Ok(Some(new)) => Ok(String::from_utf8_lossy(&new).into_owned().into()),
            Err(_refusal) => Err(TunnelError::TooLarge),
        }
    }

    /// The message without values; none where it has none.
    fn scrub(
        &self,
        mode: ScrubMode,
        bytes: &[u8],
        sums: &Mutex<Sums>,
    ) -> Result<Option<Vec<u8>>, TunnelError> {
        let sandbox = &self.flow.flow.sandbox;
        let now = sandbox.rules();
        let mut searched = self.searched.lock();
        let is_now = |rules: &Arc<Rules>| Arc::ptr_eq(&rules.secrets, &now.secrets);
        if !searched.last().is_some_and(is_now) {
            if searched.len() >= STAGES_MAX {
                return Err(TunnelError::SecretsChanged);
            }
            searched.push(now);
        }
        let mut clean = None;
        for rules in searched.iter() {
            let text = clean.as_deref().unwrap_or(bytes);
            clean = sandbox.scrub(rules, mode, text).or(clean);
        }
        sums.lock().scrubbed += u64::from(clean.is_some());
        Ok(clean)
    }
}

fn close_frame(error: &TunnelError) -> CloseFrame {
    let code = match error {
        TunnelError::Guest(_) => CloseCode::Protocol,
        TunnelError::Host(_) | TunnelError::SecretsChanged => CloseCode::Away,
        TunnelError::TooLarge => CloseCode::Size,
    };
    CloseFrame {
        code,
        reason: Utf8Bytes::from_static(error.code()),
    }
}
