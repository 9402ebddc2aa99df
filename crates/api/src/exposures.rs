//! Ports of sandboxes that are reached over HTTP, as both the official clients and our
//! own ask for them.

use std::num::NonZero;

use serde::{Deserialize, Serialize};
use tombolo_ids::UnixMillis;
use utoipa::ToSchema;

/// Asks for a name (body of `POST /api/v3/sandbox/{id}/expose/http`). The JavaScript SDK
/// sends neither field and binds the name afterwards; the Python SDK sends one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExposeHttp {
    /// The port that the name is to lead to.
    #[serde(default)]
    #[schema(value_type = Option<u16>, minimum = 1)]
    pub port: Option<NonZero<u16>>,
    /// The process whose port it is to lead to, whichever that is when somebody asks.
    #[serde(default)]
    pub pid: Option<i32>,
}

/// Asks for a name for VS Code (body of `POST /api/v3/sandbox/{id}/expose/vscode`); the RPC
/// method `exposeHttp` binds it afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExposeVscode {}

/// The name that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExposedHttp {
    /// What follows `https://` in the address; with its port unless that is 443.
    pub domain: String,
}

/// Asks for an exposure (body of `POST /api/tombolo/v1/sandboxes/{id}/exposures`): one of
/// `port` and `pid`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateExposure {
    /// The port that programs in the sandbox listen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>, minimum = 1)]
    pub port: Option<NonZero<u16>>,
    /// The process whose port it is to lead to, whichever that is when somebody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Let only those in who have the token that the answer shows.
    #[serde(default)]
    pub private: bool,
}

/// One exposure of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExposureRow {
    /// 32 hexadecimal digits.
    pub name: String,
    /// Its address.
    pub url: String,
    /// The port it leads to, if it leads to one.
    #[schema(value_type = Option<u16>)]
    pub port: Option<NonZero<u16>>,
    /// The process it leads to, if it leads to one. Neither: it is not bound so far.
    pub pid: Option<i32>,
    /// Whether it takes a token.
    pub private: bool,
    /// When it was made.
    #[schema(value_type = i64)]
    pub created_at_ms: UnixMillis,
}

/// A new exposure: the only time its token is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedExposure {
    /// What opens a private one: in the header `x-tombolo-access`, in the cookie
    /// `__Host-tombolo_access`, or once as `?tombolo_access=` of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Everything that can be listed about it.
    #[serde(flatten)]
    pub row: ExposureRow,
}

impl std::fmt::Debug for CreatedExposure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CreatedExposure")
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}
