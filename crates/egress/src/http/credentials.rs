//! What becomes of the head of a request under the secrets of its sandbox: values for
//! placeholders, or a refusal. The same for a request that is sent and for one that is only
//! explained.

use http::{HeaderName, HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};
use tombolo_substitute::{
    Destination, Finding, IneligibleReason, RequestSubstitution, Scheme as SecretScheme,
};
use zeroize::Zeroizing;

use super::Stop;
use crate::{
    identity::{Place, Scheme},
    rules::Rules,
};

/// The substitution of a request to this place; none where there are no secrets at all.
pub(crate) fn substitution(
    rules: &Rules,
    place: &Place,
    scheme: Scheme,
) -> Option<RequestSubstitution> {
    let table = &rules.secrets;
    if table.is_empty() {
        return None;
    }
    let host = place.peer.to_string();
    let destination = Destination {
        host: &host,
        port: place.port,
        scheme: match scheme {
            Scheme::Http => SecretScheme::Http,
            Scheme::Https => SecretScheme::Https,
        },
        flow: tombolo_substitute::Flow::Terminated,
    };
    let eligibility = rules.eligibility(&destination);
    Some(RequestSubstitution::new(table, eligibility))
}

/// Writes target and headers with values for placeholders, where the request carries what its
/// host requires and nothing that may not be used there.
pub(crate) fn write_head(
    rules: &Rules,
    parts: &mut Parts,
    (path, query): (&str, Option<&str>),
    substitution: &mut RequestSubstitution,
) -> Result<(), Stop> {
    let new_path = substitution.path(path)?;
    let new_query = query.and_then(|query| substitution.query(query));
    parts.uri = target(
        new_path.as_deref().unwrap_or(path),
        new_query.as_deref().or(query),
    )?;
    for (name, value) in &mut parts.headers {
        if let Some(new) = substitution.header(name.as_str(), value.as_bytes())? {
            *value = sensitive(&new)?;
        }
    }
    for injected in substitution.injected_headers() {
        let Ok(name) = HeaderName::try_from(injected.name) else {
            continue;
        };
        parts.headers.insert(name, sensitive(&injected.value)?);
    }
    substitution.check_required()?;
    check_ineligible(rules, substitution)
}

/// A header of a request that is made up of a secret: it must not be kept in a compression
/// table (SUB-16).
fn sensitive(value: &Zeroizing<Vec<u8>>) -> Result<HeaderValue, Stop> {
    let mut value =
        HeaderValue::from_bytes(value).map_err(|_invalid: header::InvalidHeaderValue| {
            Stop::refused(
                http::StatusCode::UNPROCESSABLE_ENTITY,
                "secret_in_header",
                "The value of a secret cannot stand in this header.",
            )
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A revoked secret, and one that its owner wants so, makes a request fail instead of
/// travelling as a placeholder (SUB-23).
fn check_ineligible(rules: &Rules, substitution: &RequestSubstitution) -> Result<(), Stop> {
    for finding in substitution.findings() {
        let Finding::Ineligible { secret, reason, .. } = finding else {
            continue;
        };
        let code = if *reason == IneligibleReason::Revoked {
            "secret_revoked"
        } else if rules.denies_ineligible(secret) {
            "placeholder_ineligible"
        } else {
            continue;
        };
        return Err(Stop::refused(
            http::StatusCode::FORBIDDEN,
            code,
            "A placeholder of this request may not be used here.",
        ));
    }
    Ok(())
}

pub(super) fn target(path: &str, query: Option<&str>) -> Result<Uri, Stop> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let target = PathAndQuery::try_from(text).map_err(|_invalid: http::uri::InvalidUri| {
        Stop::refused(
            http::StatusCode::BAD_REQUEST,
            "request_target",
            "The target of the request cannot be sent.",
        )
    })?;
    Ok(Uri::from(target))
}
