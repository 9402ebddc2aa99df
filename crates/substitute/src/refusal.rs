//! Why a request or a response cannot go on.

use tombolo_secret::SecretName;

/// A request or response that must not be forwarded. `Display` is for the
/// answer to the guest: it quotes nothing that the guest or the server sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body must grow, its length was declared, and it is too long to hold.
    #[error(
        "the body is larger than {max_bytes} bytes and its length would change; send it without \
         Content-Length or without a placeholder"
    )]
    BodyTooLarge {
        /// What can be held.
        max_bytes: u64,
    },
    /// A digest of the body was sent with it, and the body changed.
    #[error(
        "the request has a digest of its body, which substitution would make wrong; leave the \
         digest out or put the placeholder into a header"
    )]
    DigestWouldBreak,
    /// The body's coding is unknown, and the host is strict about it.
    #[error("the coding of the request's body is unknown; send gzip, deflate, br, zstd or none")]
    UnknownEncoding,
    /// The response's coding is unknown, so it cannot be searched for values.
    #[error("the coding of the response is unknown, so it cannot be searched for secrets")]
    UnscannableEncoding,
    /// A value would make a segment of the path `.` or `..`.
    #[error("the value of {secret} cannot be a segment of a path")]
    PathStructure {
        /// Whose value.
        secret: SecretName,
    },
    /// A value with a colon would end the user name of Basic early.
    #[error("the value of {secret} has a colon and cannot be the user name of Basic")]
    ColonInUser {
        /// Whose value.
        secret: SecretName,
    },
    /// The host wants our credential, and the request has none.
    #[error("requests to this host must carry the placeholder of {secret}")]
    CredentialMissing {
        /// Whose placeholder.
        secret: SecretName,
    },
    /// The host wants our credential, and the request carries another.
    #[error("requests to this host may carry no other credential than {secret}")]
    ForeignCredential {
        /// The only one allowed.
        secret: SecretName,
    },
    /// A message of a WebSocket is too long to hold.
    #[error("a message of a WebSocket is larger than {max_bytes} bytes")]
    MessageTooLarge {
        /// What can be held.
        max_bytes: usize,
    },
}

impl Refusal {
    /// A stable code for programs and audit records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BodyTooLarge { .. } => "secret_body_too_large",
            Self::DigestWouldBreak => "digest_would_break",
            Self::UnknownEncoding => "unknown_encoding",
            Self::UnscannableEncoding => "unscannable_encoding",
            Self::PathStructure { .. } => "secret_changes_path",
            Self::ColonInUser { .. } => "secret_in_basic_user",
            Self::CredentialMissing { .. } => "credential_missing",
            Self::ForeignCredential { .. } => "foreign_credential",
            Self::MessageTooLarge { .. } => "message_too_large",
        }
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::BodyTooLarge { .. } | Self::MessageTooLarge { .. } => 413,
            Self::DigestWouldBreak
            | Self::UnknownEncoding
            | Self::PathStructure { .. }
            | Self::ColonInUser { .. } => 422,
            Self::UnscannableEncoding => 502,
            Self::CredentialMissing { .. } | Self::ForeignCredential { .. } => 403,
        }
    }
}
