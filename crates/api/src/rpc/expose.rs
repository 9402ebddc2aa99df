//! Ports that are reached over HTTP.

use std::num::NonZero;

use serde::{Deserialize, Serialize};

/// Parameters of `exposeHttp`: one of `port` and `pid`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExposeHttpParams {
    /// What `POST /api/v3/sandbox/{id}/expose/http` gave out for this sandbox.
    pub domain: String,
    /// The port it is to lead to.
    #[serde(default)]
    pub port: Option<NonZero<u16>>,
    /// The process whose port it is to lead to.
    #[serde(default)]
    pub pid: Option<i32>,
}
