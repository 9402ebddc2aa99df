//! One request: whom it is for, whether it may pass, and its way to the program and
//! back.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_diag::log_limited;

use crate::access;
use crate::backend::{Backend, ConnectError, Exposure, Found};
use crate::body::{Activity, Body, Passing, Stalled};
use crate::connector::{Connector, authority as pool_authority};
use crate::headers;
use crate::host::{self, Base};
use crate::limits::{Gates, Limits};
use crate::page::{MARK, Page};
use crate::relay::Relay;

/// What all requests share.
pub(crate) struct Forwarder<B: Backend> {
    backend: B,
    base: Base,
    limits: Limits,
    gates: Gates,
    client: Client<Connector<B>, Body>,
    started: Instant,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// What a request that is let through has.
struct Admitted {
    exposure: Exposure,
    activity: Arc<Activity>,
    permit: OwnedSemaphorePermit,
}

impl<B: Backend> Forwarder<B> {
    pub(crate) fn new(backend: B, base: Base, limits: Limits) -> Self {
        let connector = Connector {
            backend: backend.clone(),
            limit: limits.connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.keep_timeout)
            .pool_max_idle_per_host(limits.kept_max)
            .http1_max_headers(limits.headers_max)
            .http1_max_buf_size(limits.headers_len_max)
            .set_host(false)
            .build(connector);
        Self {
            backend,
            base,
            gates: Gates::new(limits.clone()),
            limits,
            client,
            started: Instant::now(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Answers a request of a client at this address.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
    ) -> Response<Body> {
        let asked = request.headers().clone();
        match self.pass(request, client).await {
            Ok(response) => response,
            Err(page) => page.respond(&asked),
        }
    }

    async fn pass(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
    ) -> Result<Response<Body>, Page> {
        if *request.method() == Method::CONNECT {
            return Err(Page::method());
        }
        let (mut parts, body) = request.into_parts();
        headers::join_cookies(&mut parts.headers);
        let authority = host::authority(&parts).map_err(Page::host)?;
        let exposure = self.find(&authority).await?;
        let request = Request::from_parts(parts, body);
        if exposure.is_private {
            match access::token(&request) {
                Some(token) if self.backend.admits(&exposure, token.text()) => {
                    if let access::Token::ToKeep { token, without } = &token {
                        return access::keep(token, without).ok_or_else(Page::private);
                    }
                }
                _ => return Err(Page::private()),
            }
        }
        let now = self.started.elapsed();
        let permit = self
            .gates
            .admit(&exposure.owner, now)
            .map_err(Page::refused)?;
        exposure.meter.request();
        let admitted = Admitted {
            exposure,
            activity: Activity::new(),
            permit,
        };
        self.forward(request, client, &authority, admitted).await
    }

    async fn find(&self, authority: &Authority) -> Result<Exposure, Page> {
        let name = self.base.name_of(authority).ok_or_else(Page::unknown)?;
        match self.backend.find(&name).await {
            Found::Exposure(exposure) => Ok(exposure),
            Found::Stopped => Err(Page::stopped()),
            Found::NothingBound => Err(Page::nothing_bound()),
            Found::Unknown => Err(Page::unknown()),
            Found::Unavailable => Err(Page::unavailable()),
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        client: IpAddr,
        authority: &Authority,
        admitted: Admitted,
    ) -> Result<Response<Body>, Page> {
        let upgrade = match request.version() {
            Version::HTTP_11 => headers::upgrade(request.headers()),
            _ => None,
        };
        let client_side = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let wants_trailers = headers::wants_trailers(&parts.headers);
        headers::end_to_end(&mut parts.headers);
        headers::to_program(&mut parts.headers, client, authority);
        access::hide(&mut parts.headers);
        if let Some(protocol) = &upgrade {
            headers::set_upgrade(&mut parts.headers, protocol.clone());
        } else if wants_trailers {
            headers::want_trailers(&mut parts.headers);
        }
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            headers::in_chunks(&mut parts.headers);
        }
        let mut to_program = Request::new(self.request_body(body, &admitted));
        *to_program.method_mut() = parts.method;
        *to_program.headers_mut() = parts.headers;
        *to_program.uri_mut() = program_uri(&admitted.exposure, &parts.uri)?;
        let response = self.send(to_program, &admitted).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                let agreed = headers::upgrade(response.headers());
                let is_asked = |one: &http::HeaderValue, other: &http::HeaderValue| {
                    one.as_bytes().eq_ignore_ascii_case(other.as_bytes())
                };
                match (upgrade, agreed, client_side) {
                    (Some(asked), Some(agreed), Some(client_side)) if is_asked(&asked, &agreed) => {
                        Ok(self.join(response, agreed, client_side, admitted))
                    }
                    _ => Err(Page::upgrade(admitted.exposure.target)),
                }
            }
            _ => Ok(response_body(response, admitted)),
        }
    }

    fn request_body(&self, body: Incoming, admitted: &Admitted) -> Body {
        if body.is_end_stream() {
            return crate::body::empty();
        }
        Passing::of_request(
            body,
            Arc::clone(&admitted.exposure.meter),
            Arc::clone(&admitted.activity),
            self.limits.idle_timeout,
        )
    }

    /// Waits for the head of the response as long as anything of the request passes,
    /// and a while more.
    async fn send(
        &self,
        request: Request<Body>,
        admitted: &Admitted,
    ) -> Result<Response<Incoming>, Page> {
        let target = admitted.exposure.target;
        tokio::select! {
            sent = self.client.request(request) => sent.map_err(|error| failed(&error, &admitted.exposure)),
            () = admitted.activity.idle_for(self.limits.idle_timeout + SLACK) => Err(Page::slow_program(target)),
        }
    }

    /// Both sides have changed to another protocol: joins them from now on.
    fn join(
        &self,
        mut response: Response<Incoming>,
        protocol: http::HeaderValue,
        client: OnUpgrade,
        admitted: Admitted,
    ) -> Response<Body> {
        let relay = Relay {
            client,
            program: hyper::upgrade::on(&mut response),
            meter: Arc::clone(&admitted.exposure.meter),
            activity: admitted.activity,
            permit: admitted.permit,
            idle_timeout: self.limits.idle_timeout,
        };
        self.tasks.spawn(relay.run(self.shutdown.clone()));
        let mut switching = Response::new(crate::body::empty());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let mut headers = std::mem::take(response.headers_mut());
        to_client(&mut headers);
        headers::set_upgrade(&mut headers, protocol);
        *switching.headers_mut() = headers;
        switching
    }
}

/// A client whose body stalls is told so before the program is blamed.
const SLACK: Duration = Duration::from_secs(1);

fn program_uri(exposure: &Exposure, asked: &Uri) -> Result<Uri, Page> {
    let path = asked.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if !path.as_str().starts_with('/') {
        return Err(Page::target());
    }
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(pool_authority(exposure))
        .path_and_query(path)
        .build()
        .map_err(|_invalid| Page::target())
}

fn response_body(response: Response<Incoming>, admitted: Admitted) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    to_client(&mut parts.headers);
    let mut passed = Response::new(Passing::of_response(
        body,
        admitted.exposure.meter,
        admitted.activity,
        admitted.permit,
    ));
    *passed.status_mut() = parts.status;
    *passed.headers_mut() = parts.headers;
    passed
}

fn to_client(headers: &mut HeaderMap) {
    headers::end_to_end(headers);
    headers.remove(MARK);
}

/// What a client is told of a request that brought no response.
fn failed(error: &ClientError, exposure: &Exposure) -> Page {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<ConnectError>() {
            if let ConnectError::Away(source) = error {
                log_limited!(warn, owner = exposure.owner, error = %source, "a sandbox cannot be reached");
            }
            return Page::not_connected(error, exposure.target);
        }
        if inner.is::<Stalled>() {
            return Page::slow_client();
        }
        if let Some(error) = inner.downcast_ref::<hyper::Error>()
            && error.is_user()
        {
            return of_request_body(error);
        }
        cause = inner.source();
    }
    log_limited!(debug, owner = exposure.owner, %error, "a program gave no answer in HTTP");
    Page::garbage(exposure.target)
}

/// The body that came from the client failed.
fn of_request_body(error: &hyper::Error) -> Page {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<Stalled>() {
            return Page::slow_client();
        }
        cause = inner.source();
    }
    Page::broken_body()
}
