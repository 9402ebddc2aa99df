//! What the host and the guest agent say to each other. The contract is
//! `proto/guest.proto`; this crate holds the code generated from it, the
//! limits both sides keep, and the error details a failed call carries.

pub mod channel;
mod guard;

pub use guard::{Guarded, GuardedBody, Misbehaviour, agent_client};

/// Generated from `proto/guest.proto`.
#[expect(
    clippy::pedantic,
    clippy::excessive_nesting,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("tombolo.guest.v1");
}

/// The largest chunk of file, stdin or output bytes in one message.
pub const CHUNK_LEN_MAX: usize = 64 * 1024;
/// The largest message either side accepts (a batch of names, one chunk).
pub const MESSAGE_LEN_MAX: usize = 4 * 1024 * 1024;
/// The most entries in one batch of a directory, walk or glob listing.
pub const BATCH_ENTRIES_MAX: usize = 256;

impl v1::OsError {
    /// The details of a failed call, if it has any.
    #[must_use]
    pub fn from_status(status: &tonic::Status) -> Option<Self> {
        if status.details().is_empty() {
            return None;
        }
        <Self as prost::Message>::decode(status.details()).ok()
    }

    /// A status that carries this error, with `message` for people.
    #[must_use]
    pub fn into_status(self, message: impl Into<String>) -> tonic::Status {
        let details = prost::Message::encode_to_vec(&self);
        tonic::Status::with_details(tonic::Code::Unknown, message, details.into())
    }
}
