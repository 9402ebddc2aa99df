//! Connections to programs, as the HTTP client asks for them. It keeps those that can
//! be used again by the authority of the address it is asked for, which therefore says
//! name and target: an exposure that leads elsewhere now is another authority.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tombolo_ids::ExposureName;
use tower::Service;

use crate::backend::{Backend, ConnectError, Exposure, Found, Target};

/// The authority that stands for an exposure and its target.
pub(crate) fn authority(exposure: &Exposure) -> String {
    match exposure.target {
        Target::Port(port) => format!("{}.port-{port}", exposure.name),
        Target::Process(pid) => format!("{}.process-{pid}", exposure.name),
    }
}

/// Opens connections to programs.
#[derive(Clone, Debug)]
pub(crate) struct Connector<B> {
    pub(crate) backend: B,
    pub(crate) limit: Duration,
}

impl<B: Backend> Connector<B> {
    async fn open(self, asked: Uri) -> Result<Program<B::Stream>, ConnectError> {
        let host = asked.host().ok_or(ConnectError::Changed)?;
        let name = host.split('.').next().unwrap_or_default();
        let name: ExposureName = name.parse().ok().ok_or(ConnectError::Changed)?;
        let exposure = match self.backend.find(&name).await {
            Found::Exposure(exposure) if authority(&exposure) == host => exposure,
            _ => return Err(ConnectError::Changed),
        };
        let opened = timeout(self.limit, self.backend.connect(&exposure)).await;
        let stream = opened.map_err(|_elapsed| ConnectError::TimedOut)??;
        Ok(Program(TokioIo::new(stream)))
    }
}

impl<B: Backend> Service<Uri> for Connector<B> {
    type Response = Program<B::Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: Uri) -> Self::Future {
        Box::pin(self.clone().open(asked))
    }
}

/// A connection to a program.
#[derive(Debug)]
pub(crate) struct Program<S>(TokioIo<S>);

impl<S> Connection for Program<S> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl<S: Unpin> Read for Program<S>
where
    TokioIo<S>: Read,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: Unpin> Write for Program<S>
where
    TokioIo<S>: Write,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
