//! What the proxy keeps on disk, so that sandboxes live on when it is started anew: its two
//! keys, and for each sandbox its policy, secrets and authority, encrypted as a whole.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fs_err::{self as fs, os::unix::fs::OpenOptionsExt as _};
use serde::{Deserialize, Serialize};
use tombolo_ids::{ParseIdError, SandboxId};
use tombolo_secret::{
    DecryptError, EncryptError, Encrypted, EntropyError, OpeningKey, ParseEncryptedError,
    ParseKeyError, Placeholder, SecretName, SecretValue, SecretValueError, StorageKey,
};
use zeroize::Zeroizing;

use crate::{
    authority::AuthorityRecord,
    rules::{HeldSecret, SecretState},
};

/// Keeps these records apart from others under the same key.
const PURPOSE: &[u8] = b"tombolo egress sandbox v1 ";
const OPENING_KEY: &str = "opening.key";
const STORAGE_KEY: &str = "storage.key";
const SANDBOXES: &str = "sandboxes";

/// The keys and the directory.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    storage_key: StorageKey,
}

/// What is kept of a sandbox.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) organisation: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) policy_json: String,
    pub(crate) secrets: Vec<HeldSecret>,
    pub(crate) secret_generation: u64,
    pub(crate) authority: AuthorityRecord,
}

/// The same as it is written, inside the encryption.
#[derive(Serialize, Deserialize)]
struct Written {
    organisation: String,
    labels: BTreeMap<String, String>,
    policy_json: String,
    secrets: Vec<WrittenSecret>,
    secret_generation: u64,
    certificate_pem: String,
    #[serde(with = "wiped")]
    key_pem: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSecret {
    name: SecretName,
    placeholder: Placeholder,
    #[serde(with = "wiped")]
    value: Zeroizing<String>,
    is_revoked: bool,
}

/// Text that is wiped from memory.
mod wiped {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(
        text: &Zeroizing<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

/// Something cannot be kept or read again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error("cannot use a file of the egress state")]
    File(#[from] io::Error),
    /// The kernel gave no randomness.
    #[error("cannot make a key")]
    Entropy(#[from] EntropyError),
    /// A key file is damaged.
    #[error("{path} holds no key; secrets that were sealed with it cannot be read again")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why, where there is more to say.
        #[source]
        source: Option<ParseKeyError>,
    },
    /// The identifier is none.
    #[error("not the identifier of a sandbox")]
    Id(#[from] ParseIdError),
    /// Nothing can be encrypted.
    #[error("cannot encrypt what is kept of a sandbox")]
    Encrypt(#[from] EncryptError),
    /// A file is no record.
    #[error("what is kept of a sandbox is damaged")]
    Parse(#[from] ParseEncryptedError),
    /// A record is not ours.
    #[error("what is kept of a sandbox cannot be decrypted")]
    Decrypt(#[from] DecryptError),
    /// A record has another form.
    #[error("what is kept of a sandbox cannot be understood")]
    Form(#[from] serde_json::Error),
    /// A value in it is none.
    #[error("what is kept of a sandbox has an impossible value")]
    Value(#[from] SecretValueError),
}

impl Store {
    /// Opens the store and reads its keys, or makes them.
    pub(crate) fn open(directory: &Path) -> Result<(Self, OpeningKey), StoreError> {
        fs::create_dir_all(directory.join(SANDBOXES))?;
        for path in [directory.to_owned(), directory.join(SANDBOXES)] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o700))?;
        }
        let path = directory.join(OPENING_KEY);
        let opening_key = if let Some(bytes) = read_key(&path)? {
            OpeningKey::from_bytes(&*bytes).map_err(|source| StoreError::Key {
                path: path.clone(),
                source: Some(source),
            })?
        } else {
            let key = OpeningKey::generate()?;
            write(&path, &*key.to_bytes(), Until::Removed)?;
            key
        };
        let path = directory.join(STORAGE_KEY);
        let storage_key = if let Some(bytes) = read_key(&path)? {
            StorageKey::from_bytes(bytes)
        } else {
            let key = StorageKey::generate()?;
            write(&path, &*key.to_bytes(), Until::Removed)?;
            key
        };
        let directory = directory.join(SANDBOXES);
        let store = Self {
            directory,
            storage_key,
        };
        Ok((store, opening_key))
    }

    /// Keeps a sandbox, over what was kept of it before.
    pub(crate) fn keep(&self, id: &str, kept: &Kept) -> Result<(), StoreError> {
        let secrets = kept.secrets.iter().map(|held| WrittenSecret {
            name: held.name.clone(),
            placeholder: held.placeholder,
            value: Zeroizing::new(held.value.expose().to_owned()),
            is_revoked: held.state == SecretState::Revoked,
        });
        let written = Written {
            organisation: kept.organisation.clone(),
            labels: kept.labels.clone(),
            policy_json: kept.policy_json.clone(),
            secrets: secrets.collect(),
            secret_generation: kept.secret_generation,
            certificate_pem: kept.authority.certificate_pem.clone(),
            key_pem: kept.authority.key_pem.clone(),
        };
        let plain = Zeroizing::new(serde_json::to_vec(&written)?);
        let encrypted = self.storage_key.encrypt(&plain, &purpose(id))?;
        write(&self.path(id)?, &encrypted.to_bytes(), Until::HostStops)?;
        Ok(())
    }

    /// What was kept of a sandbox; none if nothing was.
    pub(crate) fn read(&self, id: &str) -> Result<Option<Kept>, StoreError> {
        let bytes = match fs::read(self.path(id)?) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let encrypted = Encrypted::from_bytes(&bytes)?;
        let plain = self.storage_key.decrypt(&encrypted, &purpose(id))?;
        let written: Written = serde_json::from_slice(&plain)?;
        let mut secrets = Vec::new();
        for secret in written.secrets {
            secrets.push(HeldSecret {
                name: secret.name,
                placeholder: secret.placeholder,
                value: SecretValue::new(secret.value.as_str().to_owned())?,
                state: if secret.is_revoked {
                    SecretState::Revoked
                } else {
                    SecretState::Active
                },
            });
        }
        Ok(Some(Kept {
            organisation: written.organisation,
            labels: written.labels,
            policy_json: written.policy_json,
            secrets,
            secret_generation: written.secret_generation,
            authority: AuthorityRecord {
                certificate_pem: written.certificate_pem,
                key_pem: written.key_pem,
            },
        }))
    }

    /// All that something is kept of.
    pub(crate) fn ids(&self) -> Result<Vec<String>, StoreError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().into_string();
            // What is being written has another name until it is whole.
            ids.extend(name.ok().filter(|name| name.parse::<SandboxId>().is_ok()));
        }
        Ok(ids)
    }

    /// Forgets a sandbox.
    pub(crate) fn forget(&self, id: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.path(id)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// An identifier is checked before it becomes the name of a file.
    fn path(&self, id: &str) -> Result<PathBuf, StoreError> {
        let id: SandboxId = id.parse()?;
        Ok(self.directory.join(id.as_str()))
    }
}

fn purpose(id: &str) -> Vec<u8> {
    [PURPOSE, id.as_bytes()].concat()
}

fn read_key(path: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = || StoreError::Key {
        path: path.to_owned(),
        source: None,
    };
    let bytes = bytes
        .first_chunk()
        .filter(|_| bytes.len() == 32)
        .ok_or_else(damaged)?;
    Ok(Some(Zeroizing::new(*bytes)))
}

/// How long a file must last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// A sandbox does not outlive the host it runs on, so a record need not
    /// either; who creates a sandbox then does not wait for a disk.
    HostStops,
    Removed,
}

/// Writes a file for nobody else to read, whole or not at all.
fn write(path: &Path, bytes: &[u8], until: Until) -> io::Result<()> {
    use std::io::Write as _;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    if until == Until::Removed {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept {
            organisation: "o".to_owned(),
            labels: BTreeMap::new(),
            policy_json: "{}".to_owned(),
            secrets: vec![HeldSecret {
                name: SecretName::parse("KEY").unwrap(),
                placeholder: Placeholder::from_bytes([1; 32]),
                value: SecretValue::new("hunter2hunter2".to_owned()).unwrap(),
                state: SecretState::Revoked,
            }],
            secret_generation: 3,
            authority: AuthorityRecord {
                certificate_pem: "certificate".to_owned(),
                key_pem: Zeroizing::new("private key".to_owned()),
            },
        }
    }

    /// LEAK-08: what is kept is encrypted and survives a restart.
    #[test]
    fn leak_08_what_is_kept_is_encrypted_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let id = SandboxId::random(tombolo_ids::Region::DEFAULT)
            .unwrap()
            .to_string();
        let (store, key) = Store::open(directory.path()).unwrap();
        store.keep(&id, &kept()).unwrap();
        let (store, again) = Store::open(directory.path()).unwrap();
        assert_eq!(key.to_bytes(), again.to_bytes());
        let read = store.read(&id).unwrap().unwrap();
        assert_eq!(read.secrets[0].value.expose(), "hunter2hunter2");
        assert_eq!(read.secrets[0].state, SecretState::Revoked);
        assert_eq!(read.secret_generation, 3);
        let written = fs::read(store.path(&id).unwrap()).unwrap();
        for text in ["hunter2", "private key"] {
            let found = written
                .windows(text.len())
                .any(|part| part == text.as_bytes());
            assert!(!found, "{text}");
        }
        store.forget(&id).unwrap();
        assert!(store.read(&id).unwrap().is_none());
        store.forget(&id).unwrap();
    }

    #[test]
    fn a_record_is_of_one_sandbox_and_names_lead_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let [one, other] = [(); 2].map(|()| {
            SandboxId::random(tombolo_ids::Region::DEFAULT)
                .unwrap()
                .to_string()
        });
        store.keep(&one, &kept()).unwrap();
        fs::copy(store.path(&one).unwrap(), store.path(&other).unwrap()).unwrap();
        assert!(matches!(store.read(&other), Err(StoreError::Decrypt(_))));
        for id in ["../opening.key", "", "/etc/passwd", "a/b"] {
            assert!(matches!(store.read(id), Err(StoreError::Id(_))), "{id}");
        }
    }
}
