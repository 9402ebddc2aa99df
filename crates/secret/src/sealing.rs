//! Sealing to a public key: whoever takes a value in can lock it and cannot
//! open it again.
//!
//! HPKE (RFC 9180), base mode: X25519 with HKDF-SHA256, HKDF-SHA256 and
//! `ChaCha20Poly1305`. The context of the secret is associated data.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hpke::{
    Deserializable as _, HpkeError, Kem as _, OpModeR, OpModeS, Serializable as _,
    aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{EntropyError, SECRET_LEN_MAX, SecretContext, SecretValue, SecretValueError};

type Kem = X25519HkdfSha256;
type PrivateKey = <Kem as hpke::Kem>::PrivateKey;
type PublicKey = <Kem as hpke::Kem>::PublicKey;
type EncappedKey = <Kem as hpke::Kem>::EncappedKey;

const KEY_LEN: usize = 32;
const FINGERPRINT_LEN: usize = 8;
const TAG_LEN: usize = 16;
/// The first byte of the form that [`SealedSecret::to_bytes`] writes.
const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + FINGERPRINT_LEN + KEY_LEN;
/// Keeps what is sealed here apart from other uses of the same key.
const INFO: &[u8] = b"tombolo egress secret v1";

/// The public half: locks values for one egress process. Not secret.
#[derive(Clone)]
pub struct SealingKey(PublicKey);

/// The private half, which only the egress process has.
pub struct OpeningKey {
    private: PrivateKey,
    public: SealingKey,
}

/// Which key something was sealed with, so that a stale key is told from a
/// damaged secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyFingerprint([u8; FINGERPRINT_LEN]);

/// A locked value. It may be stored and sent anywhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SealedSecret {
    fingerprint: KeyFingerprint,
    encapsulated: [u8; KEY_LEN],
    ciphertext: Vec<u8>,
}

/// Bytes or text are no key.
#[derive(Debug, thiserror::Error)]
#[error("not a key: {KEY_LEN} bytes, written as unpadded base64url")]
pub struct ParseKeyError(#[source] Option<base64::DecodeError>);

/// Bytes or text are no sealed secret.
#[derive(Debug, thiserror::Error)]
pub enum ParseSealedError {
    /// Not base64url.
    #[error("a sealed secret is not base64url")]
    Text(#[from] base64::DecodeError),
    /// Too short, or longer than a secret can be.
    #[error("a sealed secret has {len} bytes, which none can have")]
    Length {
        /// How many there are.
        len: usize,
    },
    /// Written by another version.
    #[error("a sealed secret has the version {version}; this build knows version {VERSION}")]
    Version {
        /// Its first byte.
        version: u8,
    },
}

/// A value could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There is no randomness.
    #[error("cannot seal a secret")]
    Entropy(#[from] EntropyError),
    /// The public key is no point that a key can be agreed with.
    #[error("cannot seal a secret with this key")]
    Key(#[source] HpkeError),
}

/// A value could not be unlocked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was sealed for another key.
    #[error("the secret was sealed for the key {found}, and this is {expected}; give it again")]
    WrongKey {
        /// Whom it is for.
        found: KeyFingerprint,
        /// Whose key tried to open it.
        expected: KeyFingerprint,
    },
    /// It is damaged, or belongs to another sandbox or name.
    #[error("the sealed secret is damaged or belongs elsewhere; give it again")]
    Damaged(#[source] HpkeError),
    /// What was in it is not text.
    #[error("what was sealed is not UTF-8")]
    Text,
    /// What was in it can be no value.
    #[error("what was sealed is no secret value")]
    Value(#[from] SecretValueError),
}

impl OpeningKey {
    /// A new pair, from the kernel's randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        let mut seed = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(seed.as_mut())?;
        let (private, public) = Kem::derive_keypair(seed.as_ref());
        Ok(Self {
            private,
            public: SealingKey(public),
        })
    }

    /// Reads the form of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseKeyError> {
        let private = PrivateKey::from_bytes(bytes).map_err(not_a_key)?;
        let public = SealingKey(Kem::sk_to_pk(&private));
        Ok(Self { private, public })
    }

    /// The private key, for the egress process's own file and nothing else.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        self.private.write_exact(bytes.as_mut());
        bytes
    }

    /// What others lock values with.
    #[must_use]
    pub fn sealing_key(&self) -> &SealingKey {
        &self.public
    }

    /// Unlocks a value that was sealed for this key and this context.
    pub fn open(
        &self,
        sealed: &SealedSecret,
        context: &SecretContext<'_>,
    ) -> Result<SecretValue, OpenError> {
        let expected = self.public.fingerprint();
        if sealed.fingerprint != expected {
            let found = sealed.fingerprint;
            return Err(OpenError::WrongKey { found, expected });
        }
        let encapsulated =
            EncappedKey::from_bytes(&sealed.encapsulated).map_err(OpenError::Damaged)?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            INFO,
            &sealed.ciphertext,
            &context.associated_data(),
        );
        let bytes = Zeroizing::new(opened.map_err(OpenError::Damaged)?);
        // The cause of this failure would quote the bytes.
        let text = std::str::from_utf8(&bytes).ok().ok_or(OpenError::Text)?;
        Ok(SecretValue::new(text.to_owned())?)
    }
}

impl SealingKey {
    /// Reads the form of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseKeyError> {
        PublicKey::from_bytes(bytes).map(Self).map_err(not_a_key)
    }

    /// The public key.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; KEY_LEN] {
        let mut bytes = [0; KEY_LEN];
        self.0.write_exact(&mut bytes);
        bytes
    }

    /// Which key this is.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        let digest = Sha256::digest(self.to_bytes());
        let mut fingerprint = [0; FINGERPRINT_LEN];
        for (to, from) in fingerprint.iter_mut().zip(digest) {
            *to = from;
        }
        KeyFingerprint(fingerprint)
    }

    /// Locks a value for the holder of the private key, bound to a context.
    pub fn seal(
        &self,
        value: &SecretValue,
        context: &SecretContext<'_>,
    ) -> Result<SealedSecret, SealError> {
        // The library panics without randomness, which is no way for a server
        // to say so. Once the kernel has given some it does not stop giving.
        getrandom::fill(&mut [0; 1]).map_err(EntropyError::from)?;
        let (encapsulated, ciphertext) =
            hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
                &OpModeS::Base,
                &self.0,
                INFO,
                value.expose().as_bytes(),
                &context.associated_data(),
            )
            .map_err(SealError::Key)?;
        let mut sealed = SealedSecret {
            fingerprint: self.fingerprint(),
            encapsulated: [0; KEY_LEN],
            ciphertext,
        };
        encapsulated.write_exact(&mut sealed.encapsulated);
        Ok(sealed)
    }
}

/// The library's error says only that the length or the point is wrong.
fn not_a_key(_: HpkeError) -> ParseKeyError {
    ParseKeyError(None)
}

impl SealedSecret {
    /// Version, fingerprint, encapsulated key, ciphertext.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.fingerprint.0);
        bytes.extend_from_slice(&self.encapsulated);
        bytes.extend_from_slice(&self.ciphertext);
        bytes
    }

    /// Reads the form of [`Self::to_bytes`]. Whether it can be opened shows
    /// when it is opened.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseSealedError> {
        let len = bytes.len();
        let possible = HEADER_LEN + TAG_LEN < len && len <= HEADER_LEN + TAG_LEN + SECRET_LEN_MAX;
        let length = ParseSealedError::Length { len };
        if !possible {
            return Err(length);
        }
        let Some((&[version], rest)) = bytes.split_first_chunk() else {
            return Err(length);
        };
        if version != VERSION {
            return Err(ParseSealedError::Version { version });
        }
        let Some((fingerprint, rest)) = rest.split_first_chunk() else {
            return Err(length);
        };
        let Some((encapsulated, ciphertext)) = rest.split_first_chunk() else {
            return Err(length);
        };
        Ok(Self {
            fingerprint: KeyFingerprint(*fingerprint),
            encapsulated: *encapsulated,
            ciphertext: ciphertext.to_owned(),
        })
    }

    /// Which key opens it.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        self.fingerprint
    }
}

impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFingerprint({self})")
    }
}

impl fmt::Display for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({self})")
    }
}

impl FromStr for SealingKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decoded = URL_SAFE_NO_PAD.decode(text);
        Self::from_bytes(&decoded.map_err(|error| ParseKeyError(Some(error)))?)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningKey(hidden, {})", self.public.fingerprint())
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedSecret(for {})", self.fingerprint)
    }
}

impl TryFrom<String> for SealedSecret {
    type Error = ParseSealedError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(text)?)
    }
}

impl From<SealedSecret> for String {
    fn from(sealed: SealedSecret) -> Self {
        URL_SAFE_NO_PAD.encode(sealed.to_bytes())
    }
}

#[cfg(test)]
mod tests;
