//! Who is asking: bearer tokens, checked before anything else is looked at.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use tombolo_api::ORGANISATION_HEADER;
use tombolo_api::error::ErrorCode;
use tombolo_ids::OrganisationId;

use crate::app::App;
use crate::database::TokenOwner;
use crate::error::ApiError;
use crate::token::TokenHash;

/// The longest token that is looked at.
const TOKEN_LEN_MAX: usize = 256;

/// Somebody with a good token.
#[derive(Clone, Debug)]
pub(crate) enum Principal {
    /// Whoever runs the server.
    Admin,
    Member(Member),
}

/// Somebody who acts for an organisation.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) organisation: OrganisationId,
}

impl Principal {
    /// Whose sandboxes are listed: everybody's when absent.
    pub(crate) fn organisation(&self) -> Option<&OrganisationId> {
        match self {
            Self::Admin => None,
            Self::Member(member) => Some(&member.organisation),
        }
    }

    /// Whether sandboxes of that organisation are there for whoever asks.
    pub(crate) fn sees(&self, organisation: &OrganisationId) -> bool {
        self.organisation().is_none_or(|own| own == organisation)
    }
}

/// Proof that the admin asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin;

impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = bearer(parts)?;
        let hash = TokenHash::of(token);
        if app
            .config
            .admin_token
            .is_some_and(|admin| admin.matches(&hash))
        {
            return Ok(Self::Admin);
        }
        let owner = app.database.token_owner(&hash).await?.ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidToken,
                "the token is unknown or revoked; `tombolo token create` makes a new one",
            )
        })?;
        check_organisation(parts, &owner)?;
        tracing::debug!(token = %owner.token, organisation = %owner.slug, "authenticated");
        Ok(Self::Member(Member {
            organisation: owner.organisation,
        }))
    }
}

impl FromRequestParts<Arc<App>> for Member {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match Principal::from_request_parts(parts, app).await? {
            Principal::Member(member) => Ok(member),
            Principal::Admin => Err(ApiError::new(
                ErrorCode::Forbidden,
                "the admin token owns no sandboxes; use an organisation's token",
            )),
        }
    }
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match Principal::from_request_parts(parts, app).await? {
            Principal::Admin => Ok(Self),
            Principal::Member(_) => Err(ApiError::new(
                ErrorCode::Forbidden,
                "only the admin token opens this",
            )),
        }
    }
}

fn bearer(parts: &Parts) -> Result<&str, ApiError> {
    let missing = || {
        ApiError::new(
            ErrorCode::NotAuthenticated,
            "send a token in the header `Authorization: Bearer …`",
        )
    };
    let header = parts.headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let text = header.to_str().ok().ok_or_else(missing)?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_LEN_MAX {
        return Err(missing());
    }
    Ok(token)
}

/// A client that names an organisation must mean the token's.
fn check_organisation(parts: &Parts, owner: &TokenOwner) -> Result<(), ApiError> {
    let Some(header) = parts.headers.get(ORGANISATION_HEADER) else {
        return Ok(());
    };
    let named = header.as_bytes();
    if named == owner.slug.as_str().as_bytes() || named == owner.organisation.as_str().as_bytes() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Forbidden,
        "the token does not belong to the organisation that the request names",
    ))
}
