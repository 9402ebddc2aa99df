//! User names by which sandboxes are reached over SSH: given out, looked up at each
//! login, taken back, and gone with the sandbox.
//!
//! A name is the whole credential, so its hash is all that is kept.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tombolo_ids::{EntropyError, ExposureName, SandboxId, UnixMillis};

use crate::database::{Database, QueryError};
use crate::token::TokenHash;

/// Names of one sandbox at a time.
const LOGINS_MAX: usize = 1000;

/// Where the gateway is, as clients are told.
#[derive(Clone, Debug)]
pub(crate) struct SshPlace {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) host_key: String,
}

/// Why no name is given out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExposeSshError {
    #[error("this server was started without SSH")]
    NoGateway,
    #[error(
        "the sandbox has {LOGINS_MAX} SSH user names, as many as it may; \
         DELETE /api/tombolo/v1/sandboxes/{{id}}/ssh takes them back"
    )]
    TooMany,
    #[error("no name could be made")]
    Entropy(#[from] EntropyError),
    #[error("the name could not be recorded")]
    Database(#[from] QueryError),
}

#[derive(Clone, Debug)]
struct Found {
    sandbox: SandboxId,
    revoked: CancellationToken,
}

#[derive(Debug)]
pub(crate) struct SshLogins {
    database: Database,
    place: Option<SshPlace>,
    /// By the hash of the name.
    live: Mutex<HashMap<String, Found>>,
}

impl SshLogins {
    /// Those that an earlier server process gave out.
    pub(crate) async fn load(
        database: Database,
        place: Option<SshPlace>,
    ) -> Result<Self, QueryError> {
        let live = database.live_ssh_logins().await?;
        let live = live.into_iter().map(|(hash, sandbox)| {
            let revoked = CancellationToken::new();
            (hash.to_string(), Found { sandbox, revoked })
        });
        Ok(Self {
            live: Mutex::new(live.collect()),
            database,
            place,
        })
    }

    pub(crate) fn place(&self) -> Result<&SshPlace, ExposeSshError> {
        self.place.as_ref().ok_or(ExposeSshError::NoGateway)
    }

    /// Gives out a name.
    pub(crate) async fn allocate(
        &self,
        sandbox: &SandboxId,
        now: UnixMillis,
    ) -> Result<String, ExposeSshError> {
        self.place()?;
        // The same 128 bits, in the same 32 digits.
        let name = ExposureName::random()?.to_string();
        let hash = TokenHash::of(&name);
        let found = Found {
            sandbox: sandbox.clone(),
            revoked: CancellationToken::new(),
        };
        {
            let mut live = self.live.lock();
            let held = live.values().filter(|other| other.sandbox == *sandbox);
            if held.count() >= LOGINS_MAX {
                return Err(ExposeSshError::TooMany);
            }
            live.insert(hash.to_string(), found);
        }
        if let Err(error) = self.database.add_ssh_login(hash, sandbox, now).await {
            self.live.lock().remove(&hash.to_string());
            return Err(error.into());
        }
        Ok(name)
    }

    /// Where a name leads, and what tells that it was taken back. The hash makes the work
    /// the same whatever the name.
    pub(crate) fn find(&self, name: &str) -> Option<(SandboxId, CancellationToken)> {
        let hash = TokenHash::of(name).to_string();
        let found = self.live.lock().get(&hash).cloned()?;
        Some((found.sandbox, found.revoked))
    }

    /// Takes back all names of a sandbox, and ends the connections by them.
    pub(crate) async fn revoke(&self, sandbox: &SandboxId) -> Result<(), QueryError> {
        self.database.remove_ssh_logins(sandbox).await?;
        self.forget(sandbox);
        Ok(())
    }

    /// The sandbox has ended.
    pub(crate) fn forget(&self, sandbox: &SandboxId) {
        self.live.lock().retain(|_, found| {
            let is_kept = found.sandbox != *sandbox;
            if !is_kept {
                found.revoked.cancel();
            }
            is_kept
        });
    }
}
