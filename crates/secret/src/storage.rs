//! Encryption at rest, for what the egress process keeps in its own directory:
//! values of secrets, keys of authorities.
//!
//! XChaCha20-Poly1305 with a random nonce of 24 bytes, long enough that chance
//! alone keeps nonces apart. What a record is for is associated data, so that
//! records cannot be exchanged on disk.

use std::fmt;

use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use zeroize::Zeroizing;

use crate::{EntropyError, SecretContext, SecretValue, SecretValueError};

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const VERSION: u8 = 1;

/// The key of a store. The egress process reads it from a file of its own.
pub struct StorageKey(XChaCha20Poly1305, Zeroizing<[u8; KEY_LEN]>);

/// A record as it is on disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Encrypted {
    nonce: [u8; NONCE_LEN],
    ciphertext: Vec<u8>,
}

/// Bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseEncryptedError {
    /// Too short.
    #[error("an encrypted record has only {len} bytes")]
    Length {
        /// How many there are.
        len: usize,
    },
    /// Written by another version.
    #[error("an encrypted record has the version {version}; this build knows version {VERSION}")]
    Version {
        /// Its first byte.
        version: u8,
    },
}

/// A record could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EncryptError {
    /// There is no randomness.
    #[error("cannot encrypt a record")]
    Entropy(#[from] EntropyError),
    /// It is larger than the cipher can take.
    #[error("a record of {len} bytes is too large to encrypt")]
    TooLarge {
        /// How many there are.
        len: usize,
    },
}

/// A record could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// Another key, another purpose, or damage: which one cannot be known.
    #[error(
        "an encrypted record is damaged, belongs elsewhere, or was written with another key; \
         restore the key file that belongs to this directory"
    )]
    Damaged,
    /// What was in it is not text.
    #[error("what was encrypted is not UTF-8")]
    Text,
    /// What was in it can be no value.
    #[error("what was encrypted is no secret value")]
    Value(#[from] SecretValueError),
}

impl StorageKey {
    /// A new one, from the kernel's randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(bytes.as_mut())?;
        Ok(Self::from_bytes(bytes))
    }

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(XChaCha20Poly1305::new(&Key::from(*bytes)), bytes)
    }

    /// The key, for the egress process's own file and nothing else.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        self.1.clone()
    }

    /// Encrypts any record. `purpose` says what it is for and must be given
    /// again to read it.
    pub fn encrypt(&self, plaintext: &[u8], purpose: &[u8]) -> Result<Encrypted, EncryptError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(EntropyError::from)?;
        let payload = Payload {
            msg: plaintext,
            aad: purpose,
        };
        let ciphertext = self.0.encrypt(&XNonce::from(nonce), payload);
        // The library's error carries nothing, and length is its only cause.
        let too_large = EncryptError::TooLarge {
            len: plaintext.len(),
        };
        let ciphertext = ciphertext.ok().ok_or(too_large)?;
        Ok(Encrypted { nonce, ciphertext })
    }

    /// Reads a record that was written for the same purpose.
    pub fn decrypt(
        &self,
        encrypted: &Encrypted,
        purpose: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let payload = Payload {
            msg: &encrypted.ciphertext,
            aad: purpose,
        };
        let plaintext = self.0.decrypt(&XNonce::from(encrypted.nonce), payload);
        // The library's error says nothing on purpose.
        plaintext
            .ok()
            .map(Zeroizing::new)
            .ok_or(DecryptError::Damaged)
    }

    /// Encrypts a value, bound to whom it belongs to.
    pub fn encrypt_secret(
        &self,
        value: &SecretValue,
        context: &SecretContext<'_>,
    ) -> Result<Encrypted, EncryptError> {
        self.encrypt(value.expose().as_bytes(), &context.associated_data())
    }

    /// Reads a value that belongs to the same.
    pub fn decrypt_secret(
        &self,
        encrypted: &Encrypted,
        context: &SecretContext<'_>,
    ) -> Result<SecretValue, DecryptError> {
        let bytes = self.decrypt(encrypted, &context.associated_data())?;
        // The cause of this failure would quote the bytes.
        let text = std::str::from_utf8(&bytes).ok().ok_or(DecryptError::Text)?;
        Ok(SecretValue::new(text.to_owned())?)
    }
}

impl Encrypted {
    /// Version, nonce, ciphertext.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.ciphertext);
        bytes
    }

    /// Reads the form of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseEncryptedError> {
        let length = ParseEncryptedError::Length { len: bytes.len() };
        let Some((&[version], rest)) = bytes.split_first_chunk() else {
            return Err(length);
        };
        if version != VERSION {
            return Err(ParseEncryptedError::Version { version });
        }
        let Some((nonce, ciphertext)) = rest.split_first_chunk() else {
            return Err(length);
        };
        if ciphertext.len() < TAG_LEN {
            return Err(length);
        }
        Ok(Self {
            nonce: *nonce,
            ciphertext: ciphertext.to_owned(),
        })
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageKey(hidden)")
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encrypted({} bytes)", self.ciphertext.len())
    }
}

#[cfg(test)]
mod tests;
