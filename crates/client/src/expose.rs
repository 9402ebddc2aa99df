//! Ports of sandboxes that the world reaches: over HTTPS and over SSH.

use std::num::NonZero;

use http::Method;
use tombolo_api::exposures::{CreateExposure, CreatedExposure};
use tombolo_api::ssh::ExposeSsh;
use tombolo_ids::ExposureName;

pub use tombolo_api::exposures::ExposureRow as Exposure;
pub use tombolo_api::ssh::ExposedSsh;

use crate::{RequestError, SandboxRef};

/// Where an exposure leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// To a port that programs in the sandbox listen on.
    Port(u16),
    /// To the port of a process, whichever that is when somebody asks.
    Process(i32),
}

impl From<u16> for Target {
    fn from(port: u16) -> Self {
        Self::Port(port)
    }
}

/// An exposure that takes a token.
#[derive(Debug, Clone)]
pub struct PrivateExposure {
    /// What it is.
    pub exposure: Exposure,
    /// What lets its clients in.
    pub access_token: AccessToken,
}

/// The token of a private exposure. It cannot be printed by accident, and the
/// server shows it this once.
#[derive(Clone)]
pub struct AccessToken(String);

impl AccessToken {
    /// The token itself, for the header `x-tombolo-access`, the cookie
    /// `__Host-tombolo_access`, or `?tombolo_access=`.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "AccessToken({} bytes)", self.0.len())
    }
}

impl SandboxRef {
    /// Exposes a port over HTTPS, to everybody who knows its address, which
    /// nobody guesses.
    ///
    /// # Errors
    /// As every request.
    pub async fn expose_http(&self, target: impl Into<Target>) -> Result<Exposure, RequestError> {
        Ok(self.expose(target.into(), false).await?.row)
    }

    /// The same, to those alone who have the token that comes with it.
    ///
    /// # Errors
    /// As every request.
    pub async fn expose_http_privately(
        &self,
        target: impl Into<Target>,
    ) -> Result<PrivateExposure, RequestError> {
        let created = self.expose(target.into(), true).await?;
        Ok(PrivateExposure {
            exposure: created.row,
            access_token: AccessToken(created.access_token.unwrap_or_default()),
        })
    }

    async fn expose(&self, target: Target, private: bool) -> Result<CreatedExposure, RequestError> {
        let (port, pid) = match target {
            Target::Port(port) => (NonZero::new(port), None),
            Target::Process(pid) => (None, Some(pid)),
        };
        let asked = CreateExposure { port, pid, private };
        let path = format!("{}/exposures", self.native_path());
        self.client.send(Method::POST, &path, &asked).await
    }

    /// Every port that is exposed.
    ///
    /// # Errors
    /// As every request.
    pub async fn exposures(&self) -> Result<Vec<Exposure>, RequestError> {
        let path = format!("{}/exposures", self.native_path());
        self.client.get(&path).await
    }

    /// Takes an exposure back: its address leads nowhere from then on.
    ///
    /// # Errors
    /// As every request.
    pub async fn unexpose(&self, name: &ExposureName) -> Result<(), RequestError> {
        let path = format!("{}/exposures/{name}", self.native_path());
        self.client.delete(&path).await
    }

    /// Opens a way in by SSH, for whoever knows the user name that is made up
    /// for it.
    ///
    /// # Errors
    /// As every request.
    pub async fn expose_ssh(&self) -> Result<ExposedSsh, RequestError> {
        let path = format!("{}/expose/ssh", self.path());
        self.client.send(Method::POST, &path, &ExposeSsh {}).await
    }

    /// Takes every way in by SSH back that was opened so far.
    ///
    /// # Errors
    /// As every request.
    pub async fn unexpose_ssh(&self) -> Result<(), RequestError> {
        let path = format!("{}/ssh", self.native_path());
        self.client.delete(&path).await
    }
}
