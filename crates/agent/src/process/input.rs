//! What a process reads on its standard input.

use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tombolo_guest_proto::v1::InputChunk;
use tombolo_sys::guest::readiness::Readiness;
use tonic::{Status, Streaming};

use super::Processes;
use super::output::widen;
use crate::fault::CallError;

/// The agent's end of a standard input. Does not block.
#[derive(Debug)]
pub(crate) struct StdinPipe {
    fd: Option<OwnedFd>,
    /// Holds the descriptor once a write has had to wait.
    registered: Option<Readiness>,
    kind: StdinKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StdinKind {
    Pipe,
    Terminal,
}

impl StdinPipe {
    pub(crate) fn pipe(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            registered: None,
            kind: StdinKind::Pipe,
        }
    }

    pub(crate) fn terminal(fd: OwnedFd) -> Self {
        Self {
            kind: StdinKind::Terminal,
            ..Self::pipe(fd)
        }
    }

    pub(super) async fn write_all(&mut self, mut data: Bytes) -> Result<(), Errno> {
        while !data.is_empty() {
            let written = match &self.fd {
                Some(fd) => rustix::io::write(fd, &data),
                None => self.write_when_ready(&data).await,
            };
            match written {
                Ok(len) => data.advance(len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.register()?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    async fn write_when_ready(&self, data: &[u8]) -> Result<usize, Errno> {
        let registered = self.registered.as_ref().ok_or(Errno::BADF)?;
        loop {
            let mut ready = registered
                .writable()
                .await
                .map_err(|error| errno_of(&error))?;
            match rustix::io::write(registered.fd(), data) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                written => return written,
            }
        }
    }

    fn register(&mut self) -> Result<(), Errno> {
        if let Some(fd) = self.fd.take() {
            widen(&fd);
            self.registered = Some(Readiness::new(fd).map_err(|error| errno_of(&error))?);
        }
        Ok(())
    }

    /// A terminal cannot be half closed; a program that reads it line by line
    /// sees an end of file when told of one.
    fn end_of_file(&self) -> Bytes {
        let registered = self.registered.as_ref().map(Readiness::fd);
        let fd = self.fd.as_ref().or(registered);
        if self.kind == StdinKind::Terminal
            && let Some(attributes) = fd.and_then(|fd| tcgetattr(fd).ok())
            && attributes.local_modes.contains(LocalModes::ICANON)
        {
            let code = attributes.special_codes[SpecialCodeIndex::VEOF];
            return Bytes::copy_from_slice(&[code]);
        }
        Bytes::new()
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Writes a stream of chunks to the process that the first one names, at the
/// pace it reads them, and closes its standard input at the end.
///
/// When the stream breaks off instead, or says so at its end, the input stays open
/// for another one.
pub(crate) async fn feed(
    processes: &Processes,
    mut chunks: Streaming<InputChunk>,
) -> Result<(), Status> {
    let Some(first) = chunks.message().await? else {
        return Err(Status::invalid_argument("no chunk names a process"));
    };
    let process = processes.find("input", first.pid)?;
    let closed = || CallError::errno("input", "", Errno::BADF);
    let stdin = process.streams.stdin.as_ref().ok_or_else(closed)?;
    let mut stdin = stdin.lock().await;
    let mut chunk = Some(first);
    while let Some(InputChunk {
        data, leaves_open, ..
    }) = chunk
    {
        let Some(pipe) = stdin.as_mut() else {
            return match process.exit() {
                Some(_) => Ok(()),
                None => Err(closed().into()),
            };
        };
        match pipe.write_all(data).await {
            Ok(()) => {}
            // Nobody reads any more, which a writer to a process must expect.
            Err(Errno::PIPE | Errno::IO) => {
                *stdin = None;
                return Ok(());
            }
            Err(errno) => return Err(CallError::errno("input", "", errno).into()),
        }
        if leaves_open {
            return Ok(());
        }
        chunk = chunks.message().await?;
    }
    if let Some(mut pipe) = stdin.take() {
        let end = pipe.end_of_file();
        if pipe.write_all(end).await.is_err() {
            // The program is gone, so it needs no end of file.
            return Ok(());
        }
    }
    Ok(())
}
