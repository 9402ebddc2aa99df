//! The wall clock, which deadlines and records are kept by.

use std::time::{SystemTime, UNIX_EPOCH};

use tombolo_ids::UnixMillis;

pub(crate) fn now() -> UnixMillis {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(0).plus(since_epoch)
}
