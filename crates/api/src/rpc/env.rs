//! The sandbox's environment store.

use serde::{Deserialize, Serialize};

/// Parameters of `envGet` and `envDelete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvKeyParams {
    /// The variable's name.
    pub key: String,
}

/// Parameters of `envSet`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnvSetParams {
    /// The variable's name.
    pub key: String,
    /// What it is set to.
    pub value: String,
}
