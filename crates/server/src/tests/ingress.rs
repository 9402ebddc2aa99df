//! Ports of sandboxes as clients of the ingress reach them, before programs of the
//! test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_ingress::Limits as IngressLimits;
use tombolo_testkit::{Listens, within};

use super::harness::{ADMIN, Socket, World};
use crate::config::IngressOptions;

const BASE: &str = "tombolo.localhost";

/// What a server's ingress is made of, and what its clients believe.
pub(super) struct TestIngress {
    pub(super) options: IngressOptions,
    pub(super) trust: Arc<ClientConfig>,
}

impl TestIngress {
    pub(super) fn new(directory: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed([format!("*.{BASE}")]).unwrap();
        let identity_file = directory.join("identity.pem");
        let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        fs_err::write(&identity_file, pem).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            options: IngressOptions {
                listen: "127.0.0.1:0".parse().unwrap(),
                base: BASE.parse().unwrap(),
                identity_file,
                acme: None,
                limits: IngressLimits::STANDARD,
            },
            trust: Arc::new(trust),
        }
    }
}

impl World {
    /// `GET /` of an exposed port: the status and the text.
    async fn visit(&self, domain: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let address = self.server.as_ref().unwrap().addresses().ingress.unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = domain.split(':').next().unwrap().to_owned();
        let name = ServerName::try_from(name).unwrap();
        let connected = TlsConnector::from(Arc::clone(&self.trust)).connect(name, stream);
        let io = TokioIo::new(within("TLS", connected).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get("/").header("host", domain);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = within("an answer", sender.send_request(request))
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> super::harness::Answer {
        self.send(Method::POST, path, &self.token, Some(body)).await
    }

    /// A sandbox in which a program answers with this text.
    async fn serving(&self, listens: Listens, text: &'static str) -> Socket {
        let socket = self.create("{}").await.unwrap();
        let agent = self.node.agent(&socket.id()).unwrap();
        agent.listen(listens, program(text).await);
        socket
    }
}

async fn program(text: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(async move || text);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn domain(answer: &super::harness::Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["domain"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_port_is_exposed_as_both_sdks_ask_for_it() {
    let world = World::new().await;
    let mut socket = world.serving(Listens::OnPort(8000), "by port").await;
    let agent = world.node.agent(&socket.id()).unwrap();
    agent.listen(Listens::AsProcess(100), program("by process").await);
    let path = format!("/api/v3/sandbox/{}/expose/http", socket.id());
    let cases = [
        (json!({}), json!({ "port": 8000 }), "by port"),
        (json!({ "port": 8000 }), json!({ "port": 8000 }), "by port"),
        (json!({ "pid": 100 }), json!({ "pid": 100 }), "by process"),
        (json!({ "port": 1 }), json!({ "pid": 100 }), "by process"),
    ];
    let mut domains = Vec::new();
    for (asked, bound, text) in cases {
        let domain = domain(&world.post(&path, asked.clone()).await);
        if asked == json!({}) {
            assert_eq!(world.visit(&domain, &[]).await.0, 502, "{asked}");
        }
        let mut params = bound;
        params["domain"] = domain.clone().into();
        assert_eq!(
            socket.call("exposeHttp", params).await,
            json!({ "ok": null })
        );
        assert_eq!(
            world.visit(&domain, &[]).await,
            (200, text.to_owned()),
            "{asked}"
        );
        domains.push(domain);
    }
    domains.sort();
    domains.dedup();
    assert_eq!(domains.len(), 4);
}

#[tokio::test]
async fn what_cannot_be_exposed_is_refused_in_words() {
    let world = World::new().await;
    let mut socket = world.serving(Listens::OnPort(8000), "mine").await;
    let mut other = world.create("{}").await.unwrap();
    let path = format!("/api/v3/sandbox/{}/expose/http", socket.id());
    let bad = [
        json!({ "port": 0 }),
        json!({ "port": 65_536 }),
        json!({ "port": -1 }),
        json!({ "port": "8000" }),
        json!({ "port": 1, "pid": 1 }),
    ];
    for body in bad {
        world
            .post(&path, body.clone())
            .await
            .refuses(400, "INVALID_REQUEST");
        let mut params = body;
        params["domain"] = "x".into();
        let outcome = socket.call("exposeHttp", params.clone()).await;
        assert_eq!(outcome["ok"], Value::Null, "{params}");
        assert_ne!(outcome, json!({ "ok": null }), "{params}");
    }
    let mine = domain(&world.post(&path, json!({})).await);
    let unknown = format!("{}.{BASE}", "0".repeat(32));
    for (is_owner, domain) in [(false, mine.as_str()), (true, &unknown), (true, BASE)] {
        let params = json!({ "domain": domain, "port": 8000 });
        let caller = if is_owner { &mut socket } else { &mut other };
        let outcome = caller.call("exposeHttp", params).await;
        assert_eq!(outcome["error"]["constructorName"], "NotFound", "{outcome}");
    }
    assert_eq!(world.visit(&mine, &[]).await.0, 502);
    assert_eq!(world.visit(&unknown, &[]).await.0, 404);
    // To another organisation, the sandbox does not exist.
    let stranger = world.new_token("strangers").await;
    let answer = world
        .send(Method::POST, &path, &stranger, Some(json!({})))
        .await;
    answer.refuses(404, "SANDBOX_NOT_FOUND");
}

#[tokio::test]
async fn nothing_that_listens_is_told_with_its_port() {
    let world = World::new().await;
    let mut socket = world.create("{}").await.unwrap();
    let path = format!("/api/v3/sandbox/{}/expose/http", socket.id());
    let domain = domain(&world.post(&path, json!({})).await);
    let params = json!({ "domain": domain, "port": 8000 });
    assert_eq!(
        socket.call("exposeHttp", params).await,
        json!({ "ok": null })
    );
    let (status, text) = world.visit(&domain, &[]).await;
    assert_eq!(status, 502);
    assert!(text.contains("nothing listens on port 8000"), "{text}");
}

#[tokio::test]
async fn a_port_named_at_create_is_exposed_at_once() {
    let world = World::new().await;
    let socket = world.create(r#"{"port":8000}"#).await.unwrap();
    let agent = world.node.agent(&socket.id()).unwrap();
    agent.listen(Listens::OnPort(8000), program("from the start").await);
    let path = format!("/api/tombolo/v1/sandboxes/{}/exposures", socket.id());
    let listed = world.get(&path).await;
    let url = listed.json[0]["url"].as_str().unwrap();
    let visited = world
        .visit(url.strip_prefix("https://").unwrap(), &[])
        .await;
    assert_eq!(visited, (200, "from the start".to_owned()));
}

#[tokio::test]
async fn exposures_outlive_the_server_and_end_with_their_sandbox() {
    let mut world = World::new().await;
    let config = r#"{"timeout":"10m"}"#;
    let socket = world.create(config).await.unwrap();
    let id = socket.id();
    let agent = world.node.agent(&id).unwrap();
    agent.listen(Listens::OnPort(8000), program("still here").await);
    let path = format!("/api/v3/sandbox/{id}/expose/http");
    let domain = domain(&world.post(&path, json!({ "port": 8000 })).await);
    socket.close_normally().await;
    world.stop_server().await;
    world.start_server().await;
    assert_eq!(
        world.visit(&domain, &[]).await,
        (200, "still here".to_owned())
    );
    assert_eq!(
        world.delete(&format!("/api/v3/sandbox/{id}")).await.status,
        204
    );
    assert_eq!(world.visit(&domain, &[]).await.0, 410);
    world.stop_server().await;
    world.start_server().await;
    assert_eq!(world.visit(&domain, &[]).await.0, 410);
    let answer = world.post(&path, json!({})).await;
    answer.refuses(400, "SANDBOX_ALREADY_TERMINATED");
}

#[tokio::test]
async fn our_own_clients_list_and_take_back_and_may_ask_for_a_token() {
    let world = World::new().await;
    let socket = world.serving(Listens::OnPort(8000), "secret").await;
    let path = format!("/api/tombolo/v1/sandboxes/{}/exposures", socket.id());
    let public = world.post(&path, json!({ "port": 8000 })).await;
    assert_eq!(public.status, 201, "{public:?}");
    assert_eq!(public.json["access_token"], Value::Null);
    let private = world
        .post(&path, json!({ "port": 8000, "private": true }))
        .await;
    let token = private.json["access_token"].as_str().unwrap();
    let url = private.json["url"].as_str().unwrap();
    let domain = url.strip_prefix("https://").unwrap();
    assert_eq!(world.visit(domain, &[]).await.0, 401);
    assert_eq!(
        world
            .visit(domain, &[("x-tombolo-access", "wrong")])
            .await
            .0,
        401
    );
    let opened = world.visit(domain, &[("x-tombolo-access", token)]).await;
    assert_eq!(opened, (200, "secret".to_owned()));
    let listed = world.get(&path).await;
    assert_eq!(listed.json.as_array().unwrap().len(), 2, "{listed:?}");
    assert!(!listed.text.contains(token));
    let name = private.json["name"].as_str().unwrap();
    assert_eq!(world.delete(&format!("{path}/{name}")).await.status, 204);
    world
        .delete(&format!("{path}/{name}"))
        .await
        .refuses(404, "EXPOSURE_NOT_FOUND");
    assert_eq!(world.visit(domain, &[]).await.0, 404);
    for body in [
        json!({}),
        json!({ "port": 1, "pid": 1 }),
        json!({ "colour": 1, "port": 1 }),
    ] {
        world
            .post(&path, body)
            .await
            .refuses(400, "INVALID_REQUEST");
    }
    // The admin sees what is anybody's.
    let seen = world.get_with(ADMIN, &path).await;
    assert_eq!(seen.json.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_came_in_is_counted() {
    let world = World::new().await;
    let socket = world.serving(Listens::OnPort(8000), "four").await;
    let path = format!("/api/v3/sandbox/{}/expose/http", socket.id());
    let domain = domain(&world.post(&path, json!({ "port": 8000 })).await);
    for _ in 0..3 {
        assert_eq!(world.visit(&domain, &[]).await.0, 200);
    }
    let rows = world.get("/api/tombolo/v1/sandboxes?usage=fresh").await;
    let usage = &rows.json[0]["usage"];
    assert_eq!(usage["ingress_requests"], 3, "{rows:?}");
    assert_eq!(usage["ingress_response_bytes"], 12, "{rows:?}");
    let metrics = world
        .get_with(ADMIN, "/api/tombolo/v1/ingress/metrics")
        .await;
    let line = format!(
        "tombolo_ingress_requests_total{{sandbox=\"{}\"}} 3",
        socket.id()
    );
    assert!(metrics.text.contains(&line), "{}", metrics.text);
    assert!(
        metrics.text.contains("tombolo_ingress_exposures 1"),
        "{}",
        metrics.text
    );
    world
        .get("/api/tombolo/v1/ingress/metrics")
        .await
        .refuses(403, "FORBIDDEN");
}
