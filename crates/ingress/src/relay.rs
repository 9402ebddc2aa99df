//! Joins a client and a program after both changed to a protocol that is not ours to
//! understand, such as WebSocket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tombolo_diag::log_limited;

use crate::backend::{Meter, Way};
use crate::body::Activity;

/// Bytes of one direction that are held.
const BUFFER_LEN: usize = 16 * 1024;

/// Both ends of a connection that was upgraded, and what it counts against.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) client: OnUpgrade,
    pub(crate) program: OnUpgrade,
    pub(crate) meter: Arc<Meter>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) idle_timeout: Duration,
}

impl Relay {
    /// Carries bytes until both directions have ended, nothing passes for too long, or
    /// the ingress stops. The end of one direction is told to the other side, which
    /// may go on.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let activity = Arc::clone(&self.activity);
        let idle = activity.idle_for(self.idle_timeout);
        let joined = async {
            tokio::select! {
                joined = self.join() => joined,
                () = idle => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        if let Some(Err(error)) = shutdown.run_until_cancelled(joined).await {
            log_limited!(debug, %error, "an upgraded connection ended badly");
        }
    }

    async fn join(self) -> io::Result<()> {
        let (client, program) =
            tokio::try_join!(self.client, self.program).map_err(io::Error::other)?;
        let (client_reader, client_writer) = tokio::io::split(TokioIo::new(client));
        let (program_reader, program_writer) = tokio::io::split(TokioIo::new(program));
        let (meter, activity) = (&*self.meter, &*self.activity);
        tokio::try_join!(
            copy(client_reader, program_writer, Way::In, meter, activity),
            copy(program_reader, client_writer, Way::Out, meter, activity),
        )?;
        drop(self.permit);
        Ok(())
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    meter: &Meter,
    activity: &Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        activity.note();
        to.write_all(bytes).await?;
        to.flush().await?;
        activity.note();
        meter.bytes(way, len);
    }
}
