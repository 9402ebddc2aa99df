//! What the control plane, a node and its egress proxy say to each other. The
//! contracts are `proto/node.proto` and `proto/egress.proto`; this crate holds
//! the code generated from them and the names both sides must agree on.

pub mod handover;

/// Metadata key that names the sandbox of a guest call passed through a node.
pub const SANDBOX_METADATA_KEY: &str = "x-tombolo-sandbox";

/// Generated from `proto/node.proto`.
#[expect(
    clippy::pedantic,
    clippy::excessive_nesting,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("tombolo.node.v1");
}

/// Generated from `proto/egress.proto`.
#[expect(
    clippy::pedantic,
    clippy::excessive_nesting,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]
pub mod egress {
    tonic::include_proto!("tombolo.egress.v1");
}
