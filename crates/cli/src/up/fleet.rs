//! The egress proxy, the node and the server together: started in this order,
//! since each needs the one before, each started again when it dies, and
//! stopped in the opposite order.

use std::time::Duration;

use tokio::time::Instant;
use tombolo_diag::ExitCode;

use super::child::{Child, ChildError, End, Role};
use super::tokens;
use crate::children::{EgressLaunch, NodeLaunch, Ready, ServerLaunch};
use crate::config::Settings;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::ingress::Certificates;
use crate::state::{Running, Tenure};

/// The wait before a child that died is started again, doubled each time...
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// ... up to this much, ...
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// ... and back to the least once a child has lived this long.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// The children of one supervisor.
#[derive(Debug)]
pub(crate) struct Fleet {
    egress: Keeper<EgressLaunch>,
    node: Keeper<NodeLaunch>,
    server: Keeper<ServerLaunch>,
    certificates: Certificates,
    running: Running,
}

impl Fleet {
    /// Starts all. What fails here fails for good: it is the person's to
    /// mend, and they are watching.
    pub(crate) async fn start(
        context: &Context,
        settings: &Settings,
        tenure: Tenure,
    ) -> Outcome<Self> {
        let admin_token_hash = tokens::make_admin(&context.state)?;
        let certificates = Certificates::prepare(&context.state, settings)?;
        let egress = EgressLaunch::new(&context.state, settings);
        let (egress, _ready) = Keeper::start(Role::Egress, egress, context.log.clone()).await?;
        let node = NodeLaunch::new(&context.state, settings);
        let (node, _ready) = match Keeper::start(Role::Node, node, context.log.clone()).await {
            Ok(started) => started,
            Err(error) => {
                egress.child.stop().await;
                return Err(error.into());
            }
        };
        let launch = ServerLaunch::new(&context.state, settings, tenure, admin_token_hash);
        let (mut server, address) =
            match Keeper::start(Role::Server, launch, context.log.clone()).await {
                Ok(started) => started,
                Err(error) => {
                    node.child.stop().await;
                    egress.child.stop().await;
                    return Err(Failure::from(error).hint(format!(
                        "if {} is taken, choose another address with --listen; if {} is, with \
                         --ingress-listen; if {} is, with --ssh-listen",
                        settings.listen, settings.ingress.listen, settings.ssh.listen
                    )));
                }
            };
        // Started again, the server comes back where its clients know it,
        // also if it was free to choose.
        let ready: Ready = address.parse().map_err(|error| {
            Failure::new(ExitCode::Internal, anyhow::Error::new(error))
                .context(format!("the server says that it listens at \"{address}\""))
        })?;
        server.launch.listen = ready.api;
        if let Some(ingress) = ready.ingress {
            server.launch.settings.ingress.listen = ingress;
        }
        if let Some(ssh) = ready.ssh {
            server.launch.settings.ssh.listen = ssh;
        }
        let running = Running {
            url: format!("http://{}", server.launch.listen),
            pid: std::process::id(),
            server_pid: server.child.pid(),
            node_pid: node.child.pid(),
            egress_pid: Some(egress.child.pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: Some(settings.clone()),
        };
        context.state.write_running(&running)?;
        Ok(Self {
            egress,
            node,
            server,
            certificates,
            running,
        })
    }

    /// Starts again whichever child dies, until the server retires.
    pub(super) async fn keep_alive(&mut self, context: &Context) -> Outcome {
        loop {
            let life = tokio::select! {
                life = self.egress.revive() => life,
                life = self.node.revive() => life,
                life = self.server.revive() => life,
                never = self.certificates.keep() => match never {},
            };
            if life == Life::Retired {
                return Ok(());
            }
            self.running.egress_pid = Some(self.egress.child.pid());
            self.running.node_pid = self.node.child.pid();
            self.running.server_pid = self.server.child.pid();
            context.state.write_running(&self.running)?;
        }
    }

    /// Which processes they are.
    pub(crate) fn pids(&self) -> Pids {
        Pids {
            server: self.server.child.pid(),
            node: self.node.child.pid(),
        }
    }

    /// Stops the server, then the node, then the egress proxy: the node takes
    /// its sandboxes out of it.
    pub(crate) async fn stop(self) {
        self.server.child.stop().await;
        self.node.child.stop().await;
        self.egress.child.stop().await;
    }
}

/// The process ids of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pids {
    pub(crate) server: u32,
    pub(crate) node: u32,
}

/// What became of a child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It runs again.
    Again,
    /// It is not to be started again.
    Retired,
}

/// A child and how to start it again.
#[derive(Debug)]
struct Keeper<L> {
    role: Role,
    launch: L,
    log: Option<String>,
    child: Child,
    state: Vitality,
}

/// What is known about a child's health.
#[derive(Debug)]
enum Vitality {
    Alive {
        since: Instant,
        backoff: Duration,
    },
    /// It has died, and is to be started at this moment.
    Dead {
        start_at: Instant,
        backoff: Duration,
    },
}

impl<L: serde::Serialize + Sync> Keeper<L> {
    async fn start(
        role: Role,
        launch: L,
        log: Option<String>,
    ) -> Result<(Self, String), ChildError> {
        let (child, said) = Child::start(role, &launch, log.as_deref()).await?;
        let keeper = Self {
            role,
            launch,
            log,
            child,
            state: Vitality::Alive {
                since: Instant::now(),
                backoff: BACKOFF_MIN,
            },
        };
        Ok((keeper, said))
    }

    /// Waits until the child dies and a new one is ready, or it retires. It may be
    /// dropped at any point and called again: what it knows is kept.
    async fn revive(&mut self) -> Life {
        loop {
            match self.state {
                Vitality::Alive { since, backoff } => {
                    let status = match self.child.ended().await {
                        End::Retired => return Life::Retired,
                        End::Died(status) => status,
                    };
                    let backoff = if since.elapsed() >= HEALTHY_AFTER {
                        BACKOFF_MIN
                    } else {
                        backoff
                    };
                    tracing::warn!(role = %self.role, %status, "it died and is started again");
                    self.state = Vitality::Dead {
                        start_at: Instant::now() + backoff,
                        backoff: (backoff * 2).min(BACKOFF_MAX),
                    };
                }
                Vitality::Dead { start_at, backoff } => {
                    tokio::time::sleep_until(start_at).await;
                    match Child::start(self.role, &self.launch, self.log.as_deref()).await {
                        Ok((child, _said)) => {
                            self.child = child;
                            self.state = Vitality::Alive {
                                since: Instant::now(),
                                backoff,
                            };
                            tracing::info!(role = %self.role, "it runs again");
                            return Life::Again;
                        }
                        Err(error) => {
                            tracing::error!(role = %self.role, %error, "it does not come back yet");
                            self.state = Vitality::Dead {
                                start_at: Instant::now() + backoff,
                                backoff: (backoff * 2).min(BACKOFF_MAX),
                            };
                        }
                    }
                }
            }
        }
    }
}
