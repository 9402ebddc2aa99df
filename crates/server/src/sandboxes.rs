//! Sandboxes over REST, as the official clients use it: end, extend, list.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{HOST, LINK};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::query::{ListQuery, PAGE_LEN_MAX};
use tombolo_api::sandbox::{SandboxMeta, SandboxStatus, StopAt};
use tombolo_ids::{SandboxId, UnixMillis};

use crate::app::App;
use crate::auth::{Member, Principal};
use crate::body::JsonBody;
use crate::clock;
use crate::database::{Page, PageQuery, SandboxRecord, StoredState};
use crate::error::ApiError;
use crate::openapi::{ListParameters, REFUSED, SANDBOXES_TAG};
use crate::sandbox::{Killed, SandboxHandle};

/// Rows on a page of the paged listing when the client does not say.
pub(crate) const PAGE_LEN_DEFAULT: u32 = 100;

/// A sandbox of the member's organisation that this server looks after.
pub(crate) async fn find_running(
    app: &App,
    member: &Member,
    id: &str,
) -> Result<SandboxHandle, ApiError> {
    find_seen(app, &Principal::Member(member.clone()), id).await
}

/// A sandbox that is there for whoever asks, and that this server looks after.
pub(crate) async fn find_seen(
    app: &App,
    principal: &Principal,
    id: &str,
) -> Result<SandboxHandle, ApiError> {
    let id: SandboxId = id.parse().ok().ok_or_else(ApiError::sandbox_not_found)?;
    if let Some(handle) = app.registry.get(&id) {
        return if principal.sees(handle.organisation()) {
            Ok(handle)
        } else {
            Err(ApiError::sandbox_not_found())
        };
    }
    match app.database.sandbox(&id).await? {
        Some(record) if principal.sees(&record.organisation) => Err(ApiError::sandbox_ended()),
        _ => Err(ApiError::sandbox_not_found()),
    }
}

/// End a sandbox
///
/// Ending what has ended is no mistake. The admin token ends anybody's.
#[utoipa::path(
    delete,
    path = "/api/v3/sandbox/{id}",
    tag = SANDBOXES_TAG,
    operation_id = "kill_sandbox",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 204, description = "Nothing is left of it"),
        (status = 202, description = "It is ending, which takes longer than usual"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn kill(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    end(&app, &principal, &id).await
}

/// End a sandbox, by the path of the listing
#[utoipa::path(
    delete,
    path = "/api/v3/sandboxes/{id}",
    tag = SANDBOXES_TAG,
    operation_id = "kill_listed_sandbox",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 204, description = "Nothing is left of it"),
        (status = 202, description = "It is ending, which takes longer than usual"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn kill_listed(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    end(&app, &principal, &id).await
}

async fn end(app: &App, principal: &Principal, id: &str) -> Result<StatusCode, ApiError> {
    let id: SandboxId = id.parse().ok().ok_or_else(ApiError::sandbox_not_found)?;
    let Some(handle) = app.registry.get(&id) else {
        return match app.database.sandbox(&id).await? {
            Some(record) if principal.sees(&record.organisation) => Ok(StatusCode::NO_CONTENT),
            _ => Err(ApiError::sandbox_not_found()),
        };
    };
    if !principal.sees(handle.organisation()) {
        return Err(ApiError::sandbox_not_found());
    }
    Ok(match handle.kill().await {
        Killed::Gone => StatusCode::NO_CONTENT,
        Killed::Ending => StatusCode::ACCEPTED,
    })
}

/// Ask for a later end
///
/// The end never moves closer.
#[utoipa::path(
    patch,
    path = "/api/v3/sandbox/{id}",
    tag = SANDBOXES_TAG,
    operation_id = "extend_sandbox",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = StopAt,
    responses(
        (status = 200, description = "The end that was granted", body = StopAt),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn extend(
    State(app): State<Arc<App>>,
    member: Member,
    Path(id): Path<String>,
    JsonBody(asked): JsonBody<StopAt>,
) -> Result<Json<StopAt>, ApiError> {
    let handle = find_running(&app, &member, &id).await?;
    let stop_at_ms = handle.extend(&app, asked.stop_at_ms).await?;
    Ok(Json(StopAt { stop_at_ms }))
}

/// List sandboxes, up to 1000 rows at once
///
/// Newest first. The admin token lists everybody's.
#[utoipa::path(
    get,
    path = "/api/v2/sandboxes",
    tag = SANDBOXES_TAG,
    operation_id = "list_sandboxes_v2",
    params(ListParameters),
    responses(
        (
            status = 200,
            description = "One page",
            body = Vec<SandboxMeta>,
            headers(("link" = String, description = "The next page, as `<ADDRESS>; rel=\"next\"`")),
        ),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_v2(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    list(&app, &principal, &uri, query, &headers, PAGE_LEN_MAX).await
}

/// List sandboxes page by page
///
/// Newest first. The admin token lists everybody's.
#[utoipa::path(
    get,
    path = "/api/v3/sandboxes",
    tag = SANDBOXES_TAG,
    operation_id = "list_sandboxes_v3",
    params(ListParameters),
    responses(
        (
            status = 200,
            description = "One page",
            body = Vec<SandboxMeta>,
            headers(("link" = String, description = "The next page, as `<ADDRESS>; rel=\"next\"`")),
        ),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_v3(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    list(&app, &principal, &uri, query, &headers, PAGE_LEN_DEFAULT).await
}

async fn list(
    app: &App,
    principal: &Principal,
    uri: &Uri,
    query: Option<String>,
    headers: &HeaderMap,
    limit_default: u32,
) -> Result<Response, ApiError> {
    let mut query = ListQuery::parse(&query.unwrap_or_default())
        .map_err(|error| ApiError::saying(ErrorCode::InvalidRequest, &error))?;
    let page_query = page_query(app, principal, &query, &[], limit_default)?;
    let Page { records, next } = app.database.sandbox_page(&page_query).await?;
    let metas: Vec<SandboxMeta> = records.into_iter().map(meta).collect();
    let mut response = Json(metas).into_response();
    if let Some(last) = next {
        query.cursor = Some(cursor_of(&last));
        link_header(app, &mut response, uri, headers, &query.to_query());
    }
    Ok(response)
}

/// What is asked of the database for one page of what `principal` may see.
/// Without states, rows in any.
pub(crate) fn page_query<'a>(
    app: &App,
    principal: &'a Principal,
    query: &'a ListQuery,
    states: &'a [StoredState],
    limit_default: u32,
) -> Result<PageQuery<'a>, ApiError> {
    Ok(PageQuery {
        organisation: principal.organisation(),
        labels: &query.labels,
        states,
        stopped_since: stopped_since(app, clock::now()),
        after: query.cursor.as_deref().map(parse_cursor).transpose()?,
        limit: query.limit.unwrap_or(limit_default),
    })
}

/// How far back ended sandboxes are shown.
pub(crate) fn stopped_since(app: &App, now: UnixMillis) -> UnixMillis {
    let retention = app.config.limits.stopped_retention;
    UnixMillis(0).plus(now.since(UnixMillis(0).plus(retention)))
}

/// Where a page ended: the moment of creation and the id of its last row.
fn parse_cursor(cursor: &str) -> Result<(UnixMillis, SandboxId), ApiError> {
    cursor
        .split_once('.')
        .and_then(|(moment, id)| Some((UnixMillis(moment.parse().ok()?), id.parse().ok()?)))
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidRequest,
                "the cursor is not one that this server gave out",
            )
        })
}

/// The cursor of the page after the one that ends with this row.
pub(crate) fn cursor_of((created_at, id): &(UnixMillis, SandboxId)) -> String {
    format!("{created_at}.{id}")
}

/// Tells where the next page is.
pub(crate) fn link_header(
    app: &App,
    response: &mut Response,
    uri: &Uri,
    headers: &HeaderMap,
    query: &str,
) {
    let address = format!("{}{}", origin(app, headers), uri.path());
    if let Ok(link) = HeaderValue::from_str(&next_link(&address, query)) {
        response.headers_mut().insert(LINK, link);
    }
}

/// The address of the next page, in full: clients parse it as one. Form
/// encoding leaves no comma and no semicolon, which they would split at.
fn next_link(address: &str, query: &str) -> String {
    format!("<{address}?{query}>; rel=\"next\"")
}

/// The address of this server as the client knows it.
fn origin(app: &App, headers: &HeaderMap) -> String {
    if let Some(base_url) = &app.config.base_url {
        return base_url.trim_end_matches('/').to_owned();
    }
    let host: Option<Authority> = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse().ok());
    match host {
        Some(host) => format!("http://{host}"),
        None => format!("http://{}", app.config.listen),
    }
}

fn meta(record: SandboxRecord) -> SandboxMeta {
    SandboxMeta {
        id: record.id,
        created_at: iso(record.created_at),
        stopped_at: record.stopped_at.map(iso),
        region: record.region.to_string(),
        status: match record.state {
            StoredState::Stopped => SandboxStatus::Stopped,
            StoredState::Creating | StoredState::Running | StoredState::Stopping => {
                SandboxStatus::Running
            }
        },
        labels: record.labels,
    }
}

fn iso(moment: UnixMillis) -> String {
    let timestamp = Timestamp::from_millisecond(moment.0).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_javascript_writes_them() {
        assert_eq!(iso(UnixMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            iso(UnixMillis(1_795_223_215_824)),
            "2026-11-21T01:06:55.824Z"
        );
    }

    #[test]
    fn links_are_absolute_and_nothing_in_them_splits() {
        let id: SandboxId = "sbx_ord_1at5nn58e77rtd11e3k3".parse().unwrap();
        let query = ListQuery {
            labels: [("a,b;c".to_owned(), "<d> \"e\"".to_owned())].into(),
            limit: Some(2),
            cursor: Some(cursor_of(&(UnixMillis(7), id.clone()))),
        };
        let link = next_link("http://h:1/api/v3/sandboxes", &query.to_query());
        let (address, rel) = link.split_once("; ").unwrap();
        assert_eq!(rel, "rel=\"next\"");
        assert!(!address.contains([',', ';', ' ', '"']), "{address}");
        let address = address.trim_matches(['<', '>']);
        let parsed = ListQuery::parse(address.split_once('?').unwrap().1).unwrap();
        assert_eq!(parsed.labels, query.labels);
        assert_eq!(parsed.limit, Some(2));
        let (moment, last) = parse_cursor(&parsed.cursor.unwrap()).unwrap();
        assert_eq!((moment, last), (UnixMillis(7), id));
        for wrong in ["", "7", ".", "x.sbx_ord_1at5nn58e77rtd11e3k3", "7.sbx"] {
            assert!(parse_cursor(wrong).is_err(), "{wrong}");
        }
    }
}
