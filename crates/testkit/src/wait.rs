//! Waits for a state of affairs, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Long enough for a busy machine; a test that waits this long has failed.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// When it has not for [`WAIT_MAX`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + WAIT_MAX;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        sleep(LOOK_AGAIN).await;
    }
}

/// The outcome of something that must not take longer than [`WAIT_MAX`].
///
/// # Panics
/// When it does.
#[expect(clippy::panic, reason = "the way a test fails")]
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(WAIT_MAX, work).await {
        Ok(done) => done,
        Err(elapsed) => panic!("waited in vain for {what}: {elapsed}"),
    }
}
