//! What one client forwards.

use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::time::timeout;

use super::Connection;
use crate::backend::{Backend, ConnectError, Sandbox};
use crate::forward;
use crate::shared::Shared;

type Connected<B> = Result<<<B as Backend>::Sandbox as Sandbox>::Stream, ConnectError>;

impl<B: Backend> Connection<B> {
    /// Connects a channel that the client opened to a program of the sandbox.
    pub(super) async fn connect<F>(
        &self,
        channel: Channel<Msg>,
        connecting: impl FnOnce(B::Sandbox) -> F,
        reply: ChannelOpenHandle,
        shared: Option<Shared<B::Sandbox>>,
    ) where
        F: Future<Output = Connected<B>> + Send + 'static,
    {
        let granted = shared.and_then(|shared| Some((shared.slot()?, shared)));
        let Some((slot, shared)) = granted else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return;
        };
        let connecting = connecting(shared.sandbox.clone());
        self.spawn(slot, forward::direct(shared, channel, connecting, reply));
    }

    /// Listens in the sandbox for the client.
    pub(super) async fn forward(
        &mut self,
        address: &str,
        port: &mut u32,
        shared: Option<Shared<B::Sandbox>>,
    ) -> bool {
        let (Some(shared), Ok(asked)) = (shared, u16::try_from(*port)) else {
            return false;
        };
        self.forwards.retain(|_, ended| !ended.is_cancelled());
        // Whatever address a client names, the guest's loopback is all there is.
        if self.forwards.len() >= shared.limits.forwards_max
            || self.forwards.contains_key(&(address.to_owned(), *port))
        {
            return false;
        }
        let listening = timeout(shared.limits.start_timeout, shared.sandbox.listen(asked));
        let forwarded = match listening.await {
            Ok(Ok(forwarded)) => forwarded,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a port is not forwarded");
                return false;
            }
            Err(_elapsed) => return false,
        };
        *port = forwarded.port.get().into();
        let cancelled = self.ended.child_token();
        let key = (address.to_owned(), *port);
        self.forwards.insert(key, cancelled.clone());
        let task = forward::remote(shared, address.to_owned(), forwarded);
        self.common.tasks.spawn(async move {
            cancelled.run_until_cancelled(task).await;
            // The port may be asked for again.
            cancelled.cancel();
        });
        true
    }
}
