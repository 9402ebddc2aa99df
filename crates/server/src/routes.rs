//! Every address of the server. Both planes of the official clients share one
//! origin; their paths do not collide.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, any, post};
use tombolo_api::error::ErrorCode;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::Member;
use crate::body::{BODY_LEN_MAX, LONG_BODY_LEN_MAX};
use crate::error::ApiError;
use crate::native::{egress, exposures, records, retire, ssh, watch};
use crate::openapi::Document;
use crate::{native, sandboxes, trace, unkept, unread, websocket};

pub(crate) fn router(app: Arc<App>) -> Router {
    let (routes, _document) = described().split_for_parts();
    not_built(routes)
        .fallback(unknown_address)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(from_fn(unread::read_to_end))
        .layer(from_fn(unkept::close_after_values))
        .layer(from_fn(trace::trace))
        .with_state(app)
}

/// Every address that does something, with its description.
pub(crate) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(websocket::create))
        .routes(routes!(websocket::connect))
        .routes(routes!(sandboxes::kill, sandboxes::extend))
        .routes(routes!(sandboxes::kill_listed))
        .routes(routes!(sandboxes::list_v3))
        .routes(routes!(sandboxes::list_v2))
        .routes(routes!(native::list_sandboxes))
        .merge(egress())
        .routes(routes!(exposures::expose_http))
        .routes(routes!(exposures::expose_vscode))
        .routes(routes!(
            exposures::list_exposures,
            exposures::create_exposure
        ))
        .routes(routes!(exposures::remove_exposure))
        .routes(routes!(exposures::ingress_metrics))
        .routes(routes!(ssh::expose_ssh))
        .routes(routes!(ssh::revoke_ssh))
        .routes(routes!(ssh::list_ssh_keys, ssh::add_ssh_key))
        .routes(routes!(ssh::remove_ssh_key))
        .routes(routes!(watch::watch_files))
        .routes(routes!(native::list_tokens, native::create_token))
        .routes(routes!(native::revoke_token))
        .routes(routes!(native::info))
        .routes(routes!(retire::retire))
        .routes(routes!(native::health))
}

/// The network of sandboxes. Policies are longer than other bodies.
fn egress() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(egress::get_policy, egress::replace_policy))
        .routes(routes!(egress::replace_allow_net))
        .routes(routes!(egress::list_secrets))
        .routes(routes!(egress::put_secret, egress::revoke_secret))
        .routes(routes!(egress::explain))
        .routes(routes!(egress::stats))
        .routes(routes!(records::records))
        .routes(routes!(egress::metrics))
        .layer(DefaultBodyLimit::max(LONG_BODY_LEN_MAX))
}

/// What the official clients know and this version does not do.
fn not_built(mut routes: Router<Arc<App>>) -> Router<Arc<App>> {
    let posts = [("/api/v2/sandboxes/{id}/deploy", "deploying from a sandbox")];
    for (path, feature) in posts {
        routes = routes.route(path, post(refusal(feature)));
    }
    let collections = [
        ("apps", "apps"),
        ("revisions", "revisions"),
        ("layers", "layers"),
        ("volumes", "volumes"),
        ("snapshots", "snapshots"),
    ];
    for (name, feature) in collections {
        let refused: MethodRouter<Arc<App>> = any(refusal(feature));
        routes = routes
            .route(&format!("/api/v2/{name}"), refused.clone())
            .route(&format!("/api/v2/{name}/{{*rest}}"), refused);
    }
    routes
}

fn refusal(
    feature: &'static str,
) -> impl Fn(Member) -> std::future::Ready<ApiError> + Clone + Send + Sync + 'static {
    move |_member| std::future::ready(ApiError::not_built(feature))
}

async fn unknown_address(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {path}"))
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        "this address does not take this method",
    )
}
