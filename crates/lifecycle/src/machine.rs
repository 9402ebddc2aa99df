//! The life of one sandbox.
//!
//! ```text
//!            Created                    primary lost (session)
//! Creating ----------> Running ------------------------------> Grace
//!    |                  |  ^                                    | |
//!    |                  |  '------------- connect --------------' |
//!    | end asked for    | killed, deadline, clean close, VM ended | grace over,
//!    | and Created      v                                         | killed, …
//!    '-------------> Stopping <-----------------------------------'
//!    | CreateFailed     | Destroyed
//!    '-------------> Stopped
//! ```
//!
//! A session ends with its primary connection: the one that created it. When
//! that connection is closed in order, the end is at once. When it is lost, the
//! sandbox waits for a grace period, and the first to connect in that time is
//! the new primary. The reason of the end never changes once it is set.

use tombolo_ids::UnixMillis;

use crate::lifetime::{Lifetime, LifetimeKind, LifetimeLimits};

/// Why a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A client asked for it.
    Killed,
    /// The client of a session closed its primary connection in order.
    SessionClosed,
    /// The primary connection of a session was lost and nobody came back.
    ConnectionLost,
    /// Its time was over.
    Deadline,
    /// Its virtual machine ended by itself.
    VmExited,
    /// The node knows nothing of it.
    Lost,
    /// It never came to be.
    CreateFailed,
    /// Its creator went away before it learnt the id.
    Abandoned,
}

impl StopReason {
    pub const ALL: [Self; 8] = [
        Self::Killed,
        Self::SessionClosed,
        Self::ConnectionLost,
        Self::Deadline,
        Self::VmExited,
        Self::Lost,
        Self::CreateFailed,
        Self::Abandoned,
    ];

    /// The stable name, as stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::SessionClosed => "session_closed",
            Self::ConnectionLost => "connection_lost",
            Self::Deadline => "deadline",
            Self::VmExited => "vm_exited",
            Self::Lost => "lost",
            Self::CreateFailed => "create_failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Creating,
    Running,
    Grace { until: UnixMillis },
    Stopping { reason: StopReason },
    Stopped { reason: StopReason },
}

/// What a connection means to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Secondary,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The client closed it in order.
    Clean,
    /// It broke.
    Lost,
    /// It was never established.
    NeverOpened,
}

/// What the node says about a sandbox that ended without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEnd {
    Deadline,
    VmExited,
    Lost,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Created,
    CreateFailed,
    ConnectionClosed {
        role: Role,
        closing: Closing,
    },
    Kill,
    NodeEnded(NodeEnd),
    /// Only time passed.
    Tick,
    Destroyed,
}

/// Why nobody can connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectRefusal {
    #[error("the sandbox is still being created")]
    NotReady,
    #[error("the sandbox has ended")]
    Ended,
}

/// Why a life is not extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtendRefusal {
    #[error("the sandbox has ended")]
    Ended,
    #[error("stop_at_ms lies in the past; is the client's clock right?")]
    Past,
}

/// The state machine of one sandbox.
#[derive(Clone, Debug)]
pub struct SandboxMachine {
    phase: Phase,
    /// Set while creating, when the end was asked for before the beginning.
    ending: Option<StopReason>,
    lifetime: Lifetime,
    limits: LifetimeLimits,
}

impl SandboxMachine {
    pub fn new(lifetime: Lifetime, limits: LifetimeLimits) -> Self {
        Self {
            phase: Phase::Creating,
            ending: None,
            lifetime,
            limits,
        }
    }

    /// A sandbox that runs and whose connections are all gone, because the
    /// process that held them is.
    pub fn restored(lifetime: Lifetime, limits: LifetimeLimits, now: UnixMillis) -> Self {
        let mut machine = Self::new(lifetime, limits);
        machine.phase = Phase::Running;
        machine.lose_primary(now);
        machine
    }

    /// Ends a restored sandbox for a reason found in the records.
    pub fn end_for(&mut self, reason: StopReason) {
        self.end(reason);
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// When time alone changes something next.
    pub fn next_wakeup(&self) -> Option<UnixMillis> {
        match self.phase {
            Phase::Creating | Phase::Running => Some(self.lifetime.deadline),
            Phase::Grace { until } => Some(until.min(self.lifetime.deadline)),
            Phase::Stopping { .. } | Phase::Stopped { .. } => None,
        }
    }

    pub fn apply(&mut self, now: UnixMillis, event: Event) {
        self.pass_time(now);
        match event {
            Event::Created => self.on_created(),
            Event::CreateFailed => self.on_create_failed(),
            Event::ConnectionClosed { role, closing } => {
                self.on_connection_closed(now, role, closing);
            }
            Event::Kill => self.end(StopReason::Killed),
            Event::NodeEnded(end) => self.end(match end {
                NodeEnd::Deadline => StopReason::Deadline,
                NodeEnd::VmExited => StopReason::VmExited,
                NodeEnd::Lost => StopReason::Lost,
            }),
            Event::Tick => {}
            Event::Destroyed => self.on_destroyed(),
        }
    }

    /// Another connection. The first one in a grace period becomes the primary.
    pub fn connect(&mut self, now: UnixMillis) -> Result<Role, ConnectRefusal> {
        self.pass_time(now);
        match self.phase {
            Phase::Creating => Err(ConnectRefusal::NotReady),
            Phase::Running => Ok(Role::Secondary),
            Phase::Grace { .. } => {
                self.phase = Phase::Running;
                Ok(Role::Primary)
            }
            Phase::Stopping { .. } | Phase::Stopped { .. } => Err(ConnectRefusal::Ended),
        }
    }

    /// Asks for a later end; answers when the end is now.
    pub fn extend(
        &mut self,
        now: UnixMillis,
        stop_at: UnixMillis,
    ) -> Result<UnixMillis, ExtendRefusal> {
        self.pass_time(now);
        let ended = matches!(self.phase, Phase::Stopping { .. } | Phase::Stopped { .. });
        if ended || self.ending.is_some() {
            return Err(ExtendRefusal::Ended);
        }
        if stop_at <= now {
            return Err(ExtendRefusal::Past);
        }
        Ok(self.lifetime.extend(stop_at, &self.limits, now))
    }

    fn pass_time(&mut self, now: UnixMillis) {
        if let Phase::Grace { until } = self.phase
            && now >= until
            && until <= self.lifetime.deadline
        {
            self.end(StopReason::ConnectionLost);
        }
        if now >= self.lifetime.deadline {
            self.end(StopReason::Deadline);
        }
    }

    fn end(&mut self, reason: StopReason) {
        match self.phase {
            Phase::Creating => {
                self.ending.get_or_insert(reason);
            }
            Phase::Running | Phase::Grace { .. } => self.phase = Phase::Stopping { reason },
            Phase::Stopping { .. } | Phase::Stopped { .. } => {}
        }
    }

    fn on_created(&mut self) {
        if self.phase == Phase::Creating {
            self.phase = match self.ending {
                Some(reason) => Phase::Stopping { reason },
                None => Phase::Running,
            };
        }
    }

    fn on_create_failed(&mut self) {
        if self.phase == Phase::Creating {
            let reason = self.ending.unwrap_or(StopReason::CreateFailed);
            self.phase = Phase::Stopped { reason };
        }
    }

    fn on_connection_closed(&mut self, now: UnixMillis, role: Role, closing: Closing) {
        let session = self.lifetime.kind == LifetimeKind::Session;
        if role == Role::Secondary {
            return;
        }
        match closing {
            Closing::NeverOpened => self.end(StopReason::Abandoned),
            Closing::Clean if session => self.end(StopReason::SessionClosed),
            Closing::Clean => {}
            Closing::Lost => self.lose_primary(now),
        }
    }

    fn lose_primary(&mut self, now: UnixMillis) {
        if self.lifetime.kind == LifetimeKind::Session && self.phase == Phase::Running {
            self.phase = Phase::Grace {
                until: now.plus(self.limits.grace),
            };
        }
    }

    fn on_destroyed(&mut self) {
        if let Phase::Stopping { reason } = self.phase {
            self.phase = Phase::Stopped { reason };
        }
    }
}

#[cfg(test)]
mod tests;
