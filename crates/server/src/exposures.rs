//! Names under which ports of sandboxes are reached over HTTP: given out, bound to a
//! port or a process, looked up for each request, and gone with the sandbox.
//!
//! Those of living sandboxes are held here and in the database, so that looking one
//! up costs nothing and a server that is started again knows them.

use std::collections::HashMap;

use parking_lot::Mutex;
use tombolo_ids::{EntropyError, ExposureName, SandboxId, UnixMillis, random_text};
use tombolo_ingress::Base;

use crate::database::{Database, QueryError};
use crate::guest::Target;
use crate::token::TokenHash;

/// Exposures of one sandbox at a time.
const EXPOSURES_MAX: usize = 100;
/// Characters of an access token, five bits each.
const ACCESS_TOKEN_LEN: usize = 32;

/// One name, and where it leads.
#[derive(Clone, Debug)]
pub(crate) struct Exposure {
    pub(crate) name: ExposureName,
    pub(crate) sandbox: SandboxId,
    /// Absent until it is bound.
    pub(crate) target: Option<Target>,
    /// Of the token without which nobody is let in, if there is one.
    pub(crate) access: Option<TokenHash>,
    pub(crate) created_at: UnixMillis,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody who knows the name.
    Public,
    /// Who has the token, which is told once.
    Private,
}

/// Where exposures are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) base: Base,
    pub(crate) port: u16,
}

/// Why a name is not given out, bound or taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExposeError {
    #[error("this server was started without an ingress")]
    NoIngress,
    #[error(
        "the sandbox has {EXPOSURES_MAX} exposures, as many as it may; take one back with \
         \"tombolo sandbox unexpose\""
    )]
    TooMany,
    #[error("this domain is none of the sandbox's; ask for one first")]
    NotFound,
    #[error("no name could be made")]
    Entropy(#[from] EntropyError),
    #[error("the exposure could not be recorded")]
    Database(#[from] QueryError),
}

#[derive(Debug)]
pub(crate) struct Exposures {
    database: Database,
    place: Option<Place>,
    live: Mutex<HashMap<ExposureName, Exposure>>,
}

impl Exposures {
    /// Those that an earlier server process gave out.
    pub(crate) async fn load(database: Database, place: Option<Place>) -> Result<Self, QueryError> {
        let live = database.live_exposures().await?;
        let live = live
            .into_iter()
            .map(|exposure| (exposure.name.clone(), exposure));
        Ok(Self {
            live: Mutex::new(live.collect()),
            database,
            place,
        })
    }

    /// Gives out a name, and the token of a private one.
    pub(crate) async fn allocate(
        &self,
        sandbox: &SandboxId,
        target: Option<Target>,
        access: Access,
        now: UnixMillis,
    ) -> Result<(Exposure, Option<String>), ExposeError> {
        if self.place.is_none() {
            return Err(ExposeError::NoIngress);
        }
        let token = match access {
            Access::Public => None,
            Access::Private => Some(random_text(ACCESS_TOKEN_LEN)?),
        };
        let exposure = Exposure {
            name: ExposureName::random()?,
            sandbox: sandbox.clone(),
            target,
            access: token.as_deref().map(TokenHash::of),
            created_at: now,
        };
        self.reserve(&exposure)?;
        if let Err(error) = self.database.add_exposure(&exposure).await {
            self.live.lock().remove(&exposure.name);
            return Err(error.into());
        }
        Ok((exposure, token))
    }

    fn reserve(&self, exposure: &Exposure) -> Result<(), ExposeError> {
        let mut live = self.live.lock();
        let held = live
            .values()
            .filter(|other| other.sandbox == exposure.sandbox);
        if held.count() >= EXPOSURES_MAX {
            return Err(ExposeError::TooMany);
        }
        live.insert(exposure.name.clone(), exposure.clone());
        Ok(())
    }

    /// Lets a domain of this sandbox lead to a program from now on.
    pub(crate) async fn bind(
        &self,
        sandbox: &SandboxId,
        domain: &str,
        target: Target,
    ) -> Result<(), ExposeError> {
        let place = self.place.as_ref().ok_or(ExposeError::NoIngress)?;
        let name = place.base.name(domain).ok_or(ExposeError::NotFound)?;
        self.owned(sandbox, &name)?;
        self.database.bind_exposure(&name, target).await?;
        if let Some(exposure) = self.live.lock().get_mut(&name) {
            exposure.target = Some(target);
        }
        Ok(())
    }

    /// Takes a name back for good.
    pub(crate) async fn remove(
        &self,
        sandbox: &SandboxId,
        name: &ExposureName,
    ) -> Result<(), ExposeError> {
        self.owned(sandbox, name)?;
        self.database.remove_exposure(name).await?;
        self.live.lock().remove(name);
        Ok(())
    }

    /// To another sandbox, a name is one that does not exist.
    fn owned(&self, sandbox: &SandboxId, name: &ExposureName) -> Result<(), ExposeError> {
        let live = self.live.lock();
        let is_owned = live
            .get(name)
            .is_some_and(|exposure| exposure.sandbox == *sandbox);
        is_owned.then_some(()).ok_or(ExposeError::NotFound)
    }

    /// The sandbox has ended.
    pub(crate) fn forget(&self, sandbox: &SandboxId) {
        self.live
            .lock()
            .retain(|_, exposure| exposure.sandbox != *sandbox);
    }

    pub(crate) fn find(&self, name: &ExposureName) -> Option<Exposure> {
        self.live.lock().get(name).cloned()
    }

    /// Those of one sandbox, the oldest first.
    pub(crate) fn of(&self, sandbox: &SandboxId) -> Vec<Exposure> {
        let live = self.live.lock();
        let mut found: Vec<_> = live
            .values()
            .filter(|exposure| exposure.sandbox == *sandbox)
            .cloned()
            .collect();
        found.sort_by(|one, other| {
            (one.created_at, &one.name).cmp(&(other.created_at, &other.name))
        });
        found
    }

    pub(crate) fn count(&self) -> usize {
        self.live.lock().len()
    }

    /// What follows `https://` in the address of an exposure. Empty where there is no
    /// ingress, and so none.
    pub(crate) fn domain(&self, name: &ExposureName) -> String {
        self.place
            .as_ref()
            .map(|place| place.base.domain(name, place.port))
            .unwrap_or_default()
    }
}
