//! The two WebSocket routes: create a sandbox, connect to one.
//!
//! Everything that can go wrong goes wrong before the handshake is answered,
//! so that clients get a status, a code and a message.

use std::num::NonZero;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::USER_AGENT;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use tombolo_api::config::CreateConfig;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::{CONFIG_HEADER, CREATE_PATH, SANDBOX_ID_HEADER, WARNING_HEADER};
use tombolo_lifecycle::{SandboxPlan, SandboxRequest};

use crate::app::App;
use crate::auth::Member;
use crate::clock;
use crate::error::ApiError;
use crate::exposures::{Access, ExposeError};
use crate::guest::{Dialect, Target};
use crate::network::{NetworkPlan, NetworkRequest};
use crate::openapi::{REFUSED, SANDBOXES_TAG};
use crate::rpc::{self, NoUpgrade, RpcLimits, RpcSession};
use crate::sandbox::{self, Connection};
use crate::sandboxes::find_running;

/// Warnings that a client is told.
const WARNINGS_MAX: usize = 8;

type Upgrade = Result<rpc::Upgrade, NoUpgrade>;

/// Create a sandbox (WebSocket)
///
/// The connection that creates a sandbox is its primary one. What is spoken on
/// it afterwards is JSON-RPC.
#[utoipa::path(
    get,
    path = CREATE_PATH,
    tag = SANDBOXES_TAG,
    operation_id = "create_sandbox",
    params((
        "x-deno-sandbox-config" = Option<String>,
        Header,
        description = "Base64 of a JSON object such as `NewSandbox`; the clients' other keys are in the reference"
    )),
    responses(
        (
            status = 101,
            description = "The sandbox runs",
            headers(
                ("x-deno-sandbox-id" = String, description = "The sandbox's id"),
                ("x-tombolo-warning" = String, description = "What is valid in its policy and probably not meant; may be repeated"),
            ),
        ),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    member: Member,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let upgrade = upgraded(upgrade)?;
    let config = decode_config(&headers)?;
    refuse_what_is_not_built(&config)?;
    let port = config.port.map(exposed_port).transpose()?;
    if port.is_some() && app.config.ingress.is_none() {
        return Err(ExposeError::NoIngress.into());
    }
    if config.ssh {
        // The client asks for its user name when the sandbox is there.
        app.ssh_logins.place()?;
    }
    let (plan, network) = plans(&app, config)?;
    let (connection, warnings) = sandbox::create(&app, &member.organisation, plan, network).await?;
    if let Some(port) = port {
        let target = Some(Target::Port(port));
        let (id, now) = (&connection.sandbox, clock::now());
        app.exposures
            .allocate(id, target, Access::Public, now)
            .await?;
    }
    let mut response = answer(&app, upgrade, &headers, connection);
    for warning in warnings.iter().take(WARNINGS_MAX) {
        // What is no text of a header was logged when the sandbox was created.
        if let Ok(warning) = HeaderValue::from_str(warning) {
            response.headers_mut().append(WARNING_HEADER, warning);
        }
    }
    Ok(response)
}

/// What will be created. Everything is looked at before anything is refused.
fn plans(app: &App, config: CreateConfig) -> Result<(SandboxPlan, Option<NetworkPlan>), ApiError> {
    let (mut sandbox, network) = requests(config);
    let network = match &app.egress {
        Some(_) => Some(network.plan(&mut sandbox.env)),
        None if network.asks_for_network() => {
            return Err(ApiError::not_built(
                "the network (allowNet, allow_net), secrets and egress_policy: this server was \
                 started without an egress process, leave them out or pass an empty list",
            ));
        }
        None => None,
    };
    let plan = SandboxPlan::new(sandbox, &app.config.bounds(), clock::now());
    match (plan, network.transpose()) {
        (Ok(plan), Ok(network)) => Ok((plan, network)),
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), Ok(_)) => Err(ApiError::saying(ErrorCode::InvalidConfig, &error)),
        (Err(first), Err(second)) => Err(ApiError::new(
            ErrorCode::InvalidConfig,
            format!("{first}; {second}"),
        )),
    }
}

/// Connect to a sandbox (WebSocket)
#[utoipa::path(
    get,
    path = "/api/v3/sandbox/{id}/connect",
    tag = SANDBOXES_TAG,
    operation_id = "connect_sandbox",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (
            status = 101,
            description = "Connected",
            headers(("x-deno-sandbox-id" = String, description = "The sandbox's id")),
        ),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn connect(
    State(app): State<Arc<App>>,
    member: Member,
    Path(id): Path<String>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let upgrade = upgraded(upgrade)?;
    let handle = find_running(&app, &member, &id).await?;
    let connection = handle.connect().await?;
    Ok(answer(&app, upgrade, &headers, connection))
}

/// The port that the Python SDK asks to expose at once. Its client shows no address for
/// it; the listing of exposures does.
fn exposed_port(port: i64) -> Result<NonZero<u16>, ApiError> {
    let port = u16::try_from(port).ok().and_then(NonZero::new);
    port.ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidConfig,
            "the port to expose (port) is a number from 1 to 65535",
        )
    })
}

fn upgraded(upgrade: Upgrade) -> Result<rpc::Upgrade, ApiError> {
    upgrade.map_err(|refusal| {
        ApiError::new(
            ErrorCode::WebsocketRequired,
            format!("this address speaks WebSocket: {refusal}"),
        )
    })
}

fn decode_config(headers: &HeaderMap) -> Result<CreateConfig, ApiError> {
    let Some(header) = headers.get(CONFIG_HEADER) else {
        return Ok(CreateConfig::default());
    };
    CreateConfig::decode_header(header.as_bytes())
        .map_err(|error| ApiError::saying(ErrorCode::InvalidConfig, &error))
}

/// Nothing that is asked for is ever ignored.
fn refuse_what_is_not_built(config: &CreateConfig) -> Result<(), ApiError> {
    let asked = [
        (!config.volumes.is_empty(), "volumes"),
        (config.root.is_some(), "a root volume or snapshot (root)"),
    ];
    for (is_asked, feature) in asked {
        if is_asked {
            return Err(ApiError::not_built(feature));
        }
    }
    Ok(())
}

fn requests(config: CreateConfig) -> (SandboxRequest, NetworkRequest) {
    let sandbox = SandboxRequest {
        memory_mib: config.memory_mib,
        timeout: config.timeout,
        stop_at: config.stop_at,
        labels: config.labels,
        env: config.env,
        region: config.region,
    };
    let network = NetworkRequest {
        allow_net: config.allow_net,
        secrets: config.secrets,
        policy: config.egress_policy,
    };
    (sandbox, network)
}

/// Answers the handshake and serves the connection in a task of its own. A
/// handshake that fails drops `connection`, which tells the sandbox.
fn answer(
    app: &Arc<App>,
    upgrade: rpc::Upgrade,
    headers: &HeaderMap,
    mut connection: Connection,
) -> Response {
    let limits = RpcLimits {
        frame_len_max: app.config.limits.frame_len_max,
        ..RpcLimits::default()
    };
    let session = RpcSession {
        agent: connection.agent.clone(),
        dialect: Dialect::from_user_agent(user_agent(headers)),
        stream_ids: Arc::clone(&app.stream_ids),
        ending: connection.ending.clone(),
        sandbox: connection.sandbox.clone(),
        exposures: Some(Arc::clone(&app.exposures)),
        limits,
        budget: Arc::clone(&app.budget),
    };
    let id = HeaderValue::from_str(connection.sandbox.as_str());
    let running = app.tasks.token();
    let message_len_max = session.limits.frame_len_max;
    let mut response = upgrade.accept(message_len_max, async move |socket| {
        connection.opened();
        let end = rpc::serve(socket, session).await;
        tracing::debug!(sandbox = %connection.sandbox, ?end, "connection closed");
        connection.closed(end);
        drop(running);
    });
    // An id is plain ASCII, which a header always takes.
    if let Ok(id) = id {
        response.headers_mut().insert(SANDBOX_ID_HEADER, id);
    }
    response
}

fn user_agent(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
}
