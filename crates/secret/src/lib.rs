//! What every part of Tombolo may know about secrets, and the little that only
//! one process may do with them.
//!
//! A [`SecretValue`] enters once, in the server. There it is sealed with the
//! [`SealingKey`] of the egress process and forgotten; only the holder of the
//! [`OpeningKey`] can read it again. What the egress process keeps on disk it
//! encrypts with a [`StorageKey`]. A sandbox knows a secret by its
//! [`Placeholder`] alone. Why these algorithms: `docs/design/0008-substitution.md`.
//!
//! No type here prints, compares or serialises a value by accident.

mod context;
mod name;
mod placeholder;
mod sealing;
mod storage;
mod value;

pub use context::SecretContext;
pub use name::{ParseSecretNameError, SECRET_NAME_LEN_MAX, SecretName};
pub use placeholder::{PLACEHOLDER_LEN, PLACEHOLDER_PREFIX, ParsePlaceholderError, Placeholder};
pub use sealing::{
    KeyFingerprint, OpenError, OpeningKey, ParseKeyError, ParseSealedError, SealError,
    SealedSecret, SealingKey,
};
pub use storage::{DecryptError, EncryptError, Encrypted, ParseEncryptedError, StorageKey};
pub use value::{SECRET_LEN_MAX, SecretValue, SecretValueError};

/// The kernel gave no randomness, so nothing secret can be made.
#[derive(Debug, thiserror::Error)]
#[error("the kernel gave no randomness")]
pub struct EntropyError(#[from] getrandom::Error);
