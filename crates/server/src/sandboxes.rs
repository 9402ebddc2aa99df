//! Sandboxes over REST, as the official clients use it: end, extend, list.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{HOST, LINK};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use tombolo_api::error::ErrorCode;
use tombolo_api::query::{ListQuery, PAGE_LEN_MAX};
use tombolo_api::sandbox::{SandboxMeta, SandboxStatus, StopAt};
use tombolo_ids::{SandboxId, UnixMillis};
use url::form_urlencoded;

use crate::app::App;
use crate::auth::Member;
use crate::body::JsonBody;
use crate::clock;
use crate::database::{Page, PageQuery, SandboxRecord, StoredState};
use crate::error::ApiError;
use crate::sandbox::{Killed, SandboxHandle};

/// Rows on a page of the paged listing when the client does not say.
const PAGE_LEN_DEFAULT: u32 = 100;

/// A sandbox of the member's organisation that this server looks after.
pub(crate) async fn find_running(
    app: &App,
    member: &Member,
    id: &str,
) -> Result<SandboxHandle, ApiError> {
    let id: SandboxId = id.parse().ok().ok_or_else(ApiError::sandbox_not_found)?;
    if let Some(handle) = app.registry.get(&id) {
        return if *handle.organisation() == member.organisation {
            Ok(handle)
        } else {
            Err(ApiError::sandbox_not_found())
        };
    }
    match app.database.sandbox(&id).await? {
        Some(record) if record.organisation == member.organisation => {
            Err(ApiError::sandbox_ended())
        }
        _ => Err(ApiError::sandbox_not_found()),
    }
}

pub(crate) async fn kill(
    State(app): State<Arc<App>>,
    member: Member,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id: SandboxId = id.parse().ok().ok_or_else(ApiError::sandbox_not_found)?;
    let Some(handle) = app.registry.get(&id) else {
        // Ending what has ended is no mistake.
        return match app.database.sandbox(&id).await? {
            Some(record) if record.organisation == member.organisation => {
                Ok(StatusCode::NO_CONTENT)
            }
            _ => Err(ApiError::sandbox_not_found()),
        };
    };
    if *handle.organisation() != member.organisation {
        return Err(ApiError::sandbox_not_found());
    }
    Ok(match handle.kill().await {
        Killed::Gone => StatusCode::NO_CONTENT,
        Killed::Ending => StatusCode::ACCEPTED,
    })
}

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

/// The listing that its client reads as a whole.
pub(crate) async fn list_v2(
    State(app): State<Arc<App>>,
    member: Member,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    list(&app, &member, &uri, query, &headers, PAGE_LEN_MAX).await
}

/// The listing that is read page by page.
pub(crate) async fn list_v3(
    State(app): State<Arc<App>>,
    member: Member,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    list(&app, &member, &uri, query, &headers, PAGE_LEN_DEFAULT).await
}

async fn list(
    app: &App,
    member: &Member,
    uri: &Uri,
    query: Option<String>,
    headers: &HeaderMap,
    limit_default: u32,
) -> Result<Response, ApiError> {
    let query = parse_query(query)?;
    let page_query = PageQuery {
        organisation: Some(&member.organisation),
        labels: &query.labels,
        stopped_since: stopped_since(app),
        after: query.cursor.as_deref().map(parse_cursor).transpose()?,
        limit: query.limit.unwrap_or(limit_default),
    };
    let Page { records, next } = app.database.sandbox_page(&page_query).await?;
    let metas: Vec<SandboxMeta> = records.into_iter().map(meta).collect();
    let mut response = Json(metas).into_response();
    if let Some((created_at, id)) = next {
        let address = format!("{}{}", origin(app, headers), uri.path());
        let link = next_link(&address, &query, created_at, &id);
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(LINK, link);
        }
    }
    Ok(response)
}

pub(crate) fn parse_query(query: Option<String>) -> Result<ListQuery, ApiError> {
    ListQuery::parse(&query.unwrap_or_default())
        .map_err(|error| ApiError::saying(ErrorCode::InvalidRequest, &error))
}

/// How far back ended sandboxes are shown.
pub(crate) fn stopped_since(app: &App) -> UnixMillis {
    let retention = app.config.limits.stopped_retention;
    UnixMillis(0).plus(clock::now().since(UnixMillis(0).plus(retention)))
}

/// Where a page ended: the moment of creation and the id of its last row.
pub(crate) fn parse_cursor(cursor: &str) -> Result<(UnixMillis, SandboxId), ApiError> {
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

/// The address of the next page, in full: clients parse it as one. Form
/// encoding leaves no comma and no semicolon, which they would split at.
fn next_link(address: &str, query: &ListQuery, created_at: UnixMillis, id: &SandboxId) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    for (key, value) in &query.labels {
        pairs.append_pair(&format!("labels[{key}]"), value);
    }
    if let Some(limit) = query.limit {
        pairs.append_pair("limit", &limit.to_string());
    }
    pairs.append_pair("cursor", &format!("{created_at}.{id}"));
    format!("<{address}?{}>; rel=\"next\"", pairs.finish())
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
        let query = ListQuery {
            labels: [("a,b;c".to_owned(), "<d> \"e\"".to_owned())].into(),
            limit: Some(2),
            cursor: None,
        };
        let id: SandboxId = "sbx_ord_1at5nn58e77rtd11e3k3".parse().unwrap();
        let link = next_link("http://h:1/api/v3/sandboxes", &query, UnixMillis(7), &id);
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
