//! A port of a guest's loopback at which the server listens.
//!
//! The call that listens breaks off when the node is started again while the
//! sandbox lives on, so it is made again, for the same port, until nobody wants
//! its connections or there is no sandbox.

use std::num::NonZero;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tombolo_guest_proto::v1::listen_event::Event;
use tombolo_guest_proto::v1::{ListenEvent, ListenRequest};
use tonic::{Code, Status, Streaming};

use super::{GuestAgent, GuestStream};

/// Connections that were taken up and wait for their owner.
const STREAMS_MAX: usize = 4;
/// As long as the agent keeps one for us.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before listening again.
const PAUSE: Duration = Duration::from_millis(500);

/// Connections that programs of a guest make to one port. Dropping it ends the
/// listening; what it handed out lives on.
#[derive(Debug)]
pub(crate) struct GuestListener {
    pub(crate) port: NonZero<u16>,
    pub(crate) streams: mpsc::Receiver<GuestStream>,
}

impl GuestAgent {
    /// Listens for programs of the guest. Port 0 takes a free one.
    pub(crate) async fn listen(&self, port: u16) -> Result<GuestListener, Status> {
        let (port, events) = self.listen_once(port).await?;
        let (sender, streams) = mpsc::channel(STREAMS_MAX);
        let agent = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = agent.follow(port, events, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Ok(GuestListener { port, streams })
    }

    async fn listen_once(
        &self,
        port: u16,
    ) -> Result<(NonZero<u16>, Streaming<ListenEvent>), Status> {
        let request = ListenRequest { port: port.into() };
        let mut events = self.client().listen(request).await?.into_inner();
        let first = events.message().await?.and_then(|event| event.event);
        let told = match first {
            Some(Event::Port(port)) => u16::try_from(port).ok().and_then(NonZero::new),
            _ => None,
        };
        let told = told.filter(|told| port == 0 || told.get() == port);
        let strange = || Status::internal("the guest's agent does not say where it listens");
        Ok((told.ok_or_else(strange)?, events))
    }

    async fn follow(
        &self,
        port: NonZero<u16>,
        mut events: Streaming<ListenEvent>,
        sender: &mpsc::Sender<GuestStream>,
    ) {
        loop {
            let ended = self.hand_out(&mut events, sender).await;
            tracing::debug!(%port, ?ended, "a guest listens no more");
            events = loop {
                sleep(PAUSE).await;
                match self.listen_once(port.get()).await {
                    Ok((_, events)) => break events,
                    Err(status) if status.code() == Code::NotFound => return,
                    Err(status) => tracing::debug!(%port, %status, "a guest does not listen"),
                }
            };
        }
    }

    async fn hand_out(
        &self,
        events: &mut Streaming<ListenEvent>,
        sender: &mpsc::Sender<GuestStream>,
    ) -> Result<(), Status> {
        while let Some(event) = events.message().await? {
            let Some(Event::Accepted(number)) = event.event else {
                continue;
            };
            let stream = match timeout(TAKE_TIMEOUT, self.take(number)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection was given up");
                    continue;
                }
                Err(_elapsed) => {
                    tracing::debug!("a connection was not taken up in time");
                    continue;
                }
            };
            if sender.send(stream).await.is_err() {
                // Nobody wants more: whoever called ends with that, too.
                return Ok(());
            }
        }
        Ok(())
    }
}
