//! A process that lives in memory, on a socket and a runtime of its own:
//! whatever runs on it ends when it does.

use std::path::Path;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;

/// Listens on a socket, in the place of whoever did before.
pub(crate) fn listen(socket: &Path) -> anyhow::Result<(Runtime, UnixListenerStream)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    if socket.exists() {
        fs_err::remove_file(socket)?;
    }
    let listener = {
        let _inside = runtime.enter();
        UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?
    };
    Ok((runtime, UnixListenerStream::new(listener)))
}
