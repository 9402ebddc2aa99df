//! The sandbox's environment: what processes that are started later find.

use std::collections::BTreeMap;

use tombolo_api::rpc::{EnvKeyParams, EnvSetParams, methods};

use crate::CallError;
use crate::connection::Connection;

/// The environment of processes that are started later.
#[derive(Debug, Clone)]
pub struct Env {
    connection: Connection,
}

/// Why the environment was not read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the environment{}", name.as_ref().map(|name| format!(" variable {name}")).unwrap_or_default())]
pub struct EnvError {
    operation: &'static str,
    name: Option<String>,
    #[source]
    source: CallError,
}

impl EnvError {
    /// What went wrong on the way.
    #[must_use]
    pub fn call(&self) -> &CallError {
        &self.source
    }
}

impl Env {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// One variable, if it is set.
    ///
    /// # Errors
    /// A name that no variable can have.
    pub async fn get(&self, name: &str) -> Result<Option<String>, EnvError> {
        let value = self.connection.call(methods::ENV_GET, &key(name)).await;
        value.map_err(|source| failed("read", Some(name), source))
    }

    /// Sets a variable.
    ///
    /// # Errors
    /// A name that no variable can have, and more than may be set.
    pub async fn set(&self, name: &str, value: impl Into<String>) -> Result<(), EnvError> {
        let params = EnvSetParams {
            key: name.to_owned(),
            value: value.into(),
        };
        let set = self.connection.call(methods::ENV_SET, &params).await;
        set.map_err(|source| failed("set", Some(name), source))
    }

    /// Removes a variable, if it is there.
    ///
    /// # Errors
    /// A name that no variable can have.
    pub async fn delete(&self, name: &str) -> Result<(), EnvError> {
        let deleted = self.connection.call(methods::ENV_DELETE, &key(name)).await;
        deleted.map_err(|source| failed("remove", Some(name), source))
    }

    /// All variables.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn all(&self) -> Result<BTreeMap<String, String>, EnvError> {
        /// The call takes no parameters.
        #[derive(serde::Serialize)]
        struct Nothing {}
        let all = self
            .connection
            .call(methods::ENV_TO_OBJECT, &Nothing {})
            .await;
        all.map_err(|source| failed("read", None, source))
    }
}

fn key(name: &str) -> EnvKeyParams {
    EnvKeyParams {
        key: name.to_owned(),
    }
}

fn failed(operation: &'static str, name: Option<&str>, source: CallError) -> EnvError {
    EnvError {
        operation,
        name: name.map(str::to_owned),
        source,
    }
}
