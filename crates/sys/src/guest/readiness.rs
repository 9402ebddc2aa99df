//! Waiting, in Tokio's event loop, for a descriptor that no type of its knows.

#![expect(unsafe_code, reason = "registering a descriptor has preconditions")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A descriptor registered with the event loop for as long as this lives. The
/// descriptor should not block. One descriptor can be registered only once at
/// a time.
#[derive(Debug)]
pub struct Readiness {
    registered: AsyncFd<Fixed>,
}

/// A descriptor that stays open and cannot be exchanged for another.
#[derive(Debug)]
pub struct Fixed(Arc<OwnedFd>);

impl AsRawFd for Fixed {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Readiness {
    /// Registers `fd`. Call it inside the runtime.
    pub fn new(fd: impl Into<Arc<OwnedFd>>) -> io::Result<Self> {
        let fixed = Fixed(fd.into());
        // SAFETY: `Fixed` owns a share of the descriptor, which therefore stays
        // open until the registration is gone, and nothing hands out a way to
        // put another in its place.
        let registered = unsafe { AsyncFd::register(fixed) };
        Ok(Self {
            registered: registered?,
        })
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.registered.get_ref().0
    }

    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, Fixed>> {
        self.registered.readable().await
    }

    pub async fn writable(&self) -> io::Result<AsyncFdReadyGuard<'_, Fixed>> {
        self.registered.writable().await
    }

    pub fn poll_readable<'a>(
        &'a self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'a, Fixed>>> {
        self.registered.poll_read_ready(cx)
    }

    pub fn poll_writable<'a>(
        &'a self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'a, Fixed>>> {
        self.registered.poll_write_ready(cx)
    }
}
