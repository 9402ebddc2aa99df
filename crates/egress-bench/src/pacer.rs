//! Moments at a steady rate, finer than the runtime's timers, which wait whole
//! milliseconds.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

const NANOS: u64 = 1_000_000_000;

/// Says when the next moment has come, also those that were missed.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
    due_nanos: u64,
    period_nanos: u64,
    missed: u64,
}

impl Pacer {
    /// The first moment is `start_nanos` of the monotonic clock.
    pub(crate) fn new(start_nanos: u64, period_nanos: u64) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let times = Itimerspec {
            it_interval: timespec(period_nanos),
            it_value: timespec(start_nanos),
        };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &times)?;
        Ok(Self {
            timer: register(timer)?,
            due_nanos: start_nanos.saturating_sub(period_nanos),
            period_nanos,
            missed: 0,
        })
    }

    /// Waits for the next moment and says when it was to be.
    pub(crate) async fn next(&mut self) -> io::Result<u64> {
        if self.missed == 0 {
            self.missed = self
                .timer
                .async_io(tokio::io::Interest::READABLE, expirations)
                .await?;
        }
        self.missed -= 1;
        self.due_nanos += self.period_nanos;
        Ok(self.due_nanos)
    }
}

#[expect(
    deprecated,
    reason = "the timer is ours alone and open for as long as it is registered"
)]
fn register(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}

/// How many moments came since it was asked last; at least one.
fn expirations(timer: &OwnedFd) -> io::Result<u64> {
    let mut count = [0; 8];
    rustix::io::read(timer, &mut count)?;
    Ok(u64::from_ne_bytes(count).max(1))
}

fn timespec(nanos: u64) -> Timespec {
    let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Timespec {
        tv_sec: part(nanos / NANOS),
        tv_nsec: part(nanos % NANOS),
    }
}
