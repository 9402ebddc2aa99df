//! What the ingress is given of sandboxes: where names lead, and streams to programs.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tombolo_ids::ExposureName;
use tombolo_ingress::{
    Acme, Backend, ConnectError, Exposure, Found, Identity, Ingress, IngressConfig, Listening,
    Target as IngressTarget,
};
use tombolo_lifecycle::Phase;

use crate::app::App;
use crate::clock;
use crate::config::IngressOptions;
use crate::exposures::{Exposure as Record, Place};
use crate::guest::{ConnectGuestError, GuestStream, Target};
use crate::sandbox::SandboxHandle;
use crate::sandboxes::stopped_since;
use crate::serve::ServeError;
use crate::token::TokenHash;

/// Names of no living sandbox that are looked up at one time.
const LOOKUPS_MAX: usize = 2;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// An ingress that listens and takes nobody in so far.
#[derive(Debug)]
pub(crate) struct Entrance {
    listening: Listening,
    config: IngressConfig,
    acme: Option<Acme>,
}

impl Entrance {
    pub(crate) async fn open(options: &IngressOptions) -> Result<Self, ServeError> {
        let listening = Listening::at(options.listen).await?;
        let (acme, identity) = match &options.acme {
            Some(config) => {
                let acme = Acme::open(&options.base, config.clone()).await?;
                let own = options.identity_file.clone();
                let identity = Identity::preferring(acme.identity_file(), own)?;
                (Some(acme), identity)
            }
            None => (None, Identity::read(&options.identity_file)?),
        };
        Ok(Self {
            listening,
            config: IngressConfig {
                base: options.base.clone(),
                identity,
                limits: options.limits.clone(),
            },
            acme,
        })
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            base: self.config.base.clone(),
            port: self.listening.address().port(),
        }
    }

    pub(crate) fn start(self, sandboxes: Sandboxes) -> Ingress<Sandboxes> {
        let ingress = Ingress::start(self.listening, self.config, sandboxes);
        if let Some(acme) = self.acme {
            ingress.renew_by(acme);
        }
        ingress
    }
}

/// The server as the ingress sees it.
#[derive(Clone, Debug)]
pub(crate) struct Sandboxes(pub(crate) Arc<App>);

impl Backend for Sandboxes {
    type Stream = GuestStream;

    async fn find(&self, name: &ExposureName) -> Found {
        let Some(record) = self.0.exposures.find(name) else {
            return self.find_ended(name).await;
        };
        let Some(handle) = self.0.registry.get(&record.sandbox) else {
            return Found::Stopped;
        };
        match handle.status().phase {
            Phase::Running | Phase::Grace { .. } => exposure(record, &handle),
            Phase::Creating => Found::Unavailable,
            Phase::Stopping { .. } | Phase::Stopped { .. } => Found::Stopped,
        }
    }

    fn admits(&self, exposure: &Exposure, token: &str) -> bool {
        let record = self.0.exposures.find(&exposure.name);
        let access = record.and_then(|record| record.access);
        access.is_some_and(|access| access.matches(&TokenHash::of(token)))
    }

    async fn connect(&self, exposure: &Exposure) -> Result<GuestStream, ConnectError> {
        let record = self.0.exposures.find(&exposure.name);
        let handle = record.and_then(|record| self.0.registry.get(&record.sandbox));
        let handle = handle.ok_or(ConnectError::Changed)?;
        let target = match exposure.target {
            IngressTarget::Port(port) => Target::Port(port),
            IngressTarget::Process(pid) => Target::Process(pid),
        };
        Ok(handle.agent().connect(target).await?)
    }
}

impl Sandboxes {
    /// Anybody can ask for any name; the database is for others too.
    async fn find_ended(&self, name: &ExposureName) -> Found {
        let Ok(_permit) = LOOKUPS.try_acquire() else {
            return Found::Unavailable;
        };
        match self
            .0
            .database
            .was_exposed(name, stopped_since(&self.0, clock::now()))
            .await
        {
            Ok(true) => Found::Stopped,
            Ok(false) => Found::Unknown,
            Err(error) => {
                tombolo_diag::log_limited!(error, %error, "exposures cannot be looked up");
                Found::Unavailable
            }
        }
    }
}

fn exposure(record: Record, handle: &SandboxHandle) -> Found {
    let Some(target) = record.target else {
        return Found::NothingBound;
    };
    Found::Exposure(Exposure {
        name: record.name,
        owner: record.sandbox.to_string(),
        target: match target {
            Target::Port(port) => IngressTarget::Port(port),
            Target::Process(pid) => IngressTarget::Process(pid),
        },
        is_private: record.access.is_some(),
        meter: handle.ingress(),
    })
}

impl From<ConnectGuestError> for ConnectError {
    fn from(error: ConnectGuestError) -> Self {
        match error {
            ConnectGuestError::Refused(_) => Self::NothingListens,
            ConnectGuestError::NoProcess(_) => Self::NoProcess,
            ConnectGuestError::TooMany(_) => Self::TooMany,
            ConnectGuestError::Away(_) | ConnectGuestError::Failed(_) => {
                Self::Away(Box::new(error))
            }
        }
    }
}
