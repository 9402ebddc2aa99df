//! The words every part of Tombolo shares: identifiers, names and sizes.
//!
//! Each is parsed once, at the edge, and can be trusted afterwards.

mod exposure;
mod identifier;
mod label;
mod moment;
mod region;
mod size;
mod slug;

pub use exposure::{ExposureName, ParseExposureNameError};
pub use identifier::{
    EntropyError, OrganisationId, ParseIdError, SandboxId, TokenId, TraceId, random_text,
};
pub use label::{LABEL_KEY_LEN_MAX, LABEL_VALUE_LEN_MAX, LABELS_MAX, LabelError, Labels};
pub use moment::UnixMillis;
pub use region::{ParseRegionError, Region};
pub use size::{DiskBytes, MemoryMib};
pub use slug::{OrganisationSlug, ParseSlugError, SLUG_LEN_MAX, SLUG_LEN_MIN};
