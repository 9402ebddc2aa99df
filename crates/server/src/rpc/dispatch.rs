//! Runs one call to its answer.

use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::{ErrorObject, methods};

use super::call::Call;
use super::fault::{self, CallError};
use super::outgoing::PeerGone;
use super::reply::Reply;
use super::{deno, env, expose, fetch, files, handles, listing, processes, read, vscode, write};

/// Runs a call and sends its answer, whatever happens to the sandbox. Only
/// when nobody is left to answer does it stop without.
pub(super) async fn run(method: String, mut call: Call) {
    let connection = std::sync::Arc::clone(&call.connection);
    let aborted = call
        .abortable
        .as_ref()
        .map_or_else(CancellationToken::new, super::aborts::Abortable::token);
    let work = async {
        let outcome = tokio::select! {
            biased;
            () = aborted.cancelled() => Err(fault::aborted().into()),
            outcome = dispatch(&method, &mut call) => outcome,
            () = connection.end.calls.cancelled() => cut_off(&method).map_or_else(|| call.null(), |error| Err(error.into())),
        };
        // The client may send the next call on the same file as soon as it
        // has the answer.
        call.turn = None;
        let answered = match call.fragments.take() {
            Some(fragments) => fragments.finish(Reply::last_part(outcome)).await,
            None => send(&call, outcome).await,
        };
        if let Err(gone) = answered {
            tracing::trace!(%gone, "an answer was not sent");
        }
    };
    tokio::select! {
        () = work => {}
        () = connection.end.peer_gone.cancelled() => {}
    }
}

/// What a call is told that the end of its sandbox cuts off. Nothing is left
/// to kill then, which the Python SDK must hear as it does of a process that
/// has ended: it kills all it started when it closes, and takes no other error.
/// A REPL is closed then, which is what the call was for: that is no error.
fn cut_off(method: &str) -> Option<ErrorObject> {
    match method {
        methods::DENO_REPL_CLOSE => None,
        methods::PROCESS_KILL => Some(fault::process_gone()),
        _ => Some(fault::sandbox_ended()),
    }
}

async fn send(call: &Call, outcome: Result<Reply, CallError>) -> Result<(), PeerGone> {
    let Reply { text, permit, sent } = bounded(call, outcome);
    call.connection.outgoing.answer(text, permit).await?;
    if let Some(sent) = sent {
        sent.cancel();
    }
    Ok(())
}

/// The answer, or in the place of one that the client could not take, an
/// error that says so.
fn bounded(call: &Call, outcome: Result<Reply, CallError>) -> Reply {
    let len_max = call.connection.reply_len_max();
    match outcome {
        Ok(reply) if reply.text.len() <= len_max => reply,
        Ok(_) => Reply::error(&call.id, too_large(len_max)),
        Err(error) => Reply::error(&call.id, error),
    }
}

/// The answer would be larger than the client takes.
pub(super) fn too_large(len_max: usize) -> CallError {
    ErrorObject::new(
        "RangeError",
        format!(
            "The answer is larger than the {len_max} bytes this client can receive at once; \
             for a file use open() and read() in pieces, for a listing a narrower path"
        ),
    )
    .with_code("EMSGSIZE")
    .into()
}

async fn dispatch(method: &str, call: &mut Call) -> Result<Reply, CallError> {
    if let Some(turn) = &mut call.turn {
        turn.begin().await;
    }
    match method {
        methods::SPAWN => processes::spawn(call).await,
        methods::PROCESS_WAIT => processes::wait(call).await,
        methods::PROCESS_KILL => processes::kill(call).await,
        methods::PROCESS_ATTACH => processes::attach(call).await,
        methods::PROCESS_LIST => processes::list(call).await,
        methods::PROCESS_RESIZE => processes::resize(call).await,
        methods::SPAWN_DENO => deno::spawn(call).await,
        methods::SPAWN_DENO_REPL => deno::spawn_repl(call).await,
        methods::DENO_HTTP_WAIT => deno::http_wait(call).await,
        methods::DENO_REPL_EVAL => deno::eval(call).await,
        methods::DENO_REPL_CALL => deno::call_function(call).await,
        methods::DENO_REPL_CLOSE => deno::close(call).await,
        methods::FETCH => fetch::fetch(call).await,
        methods::READ_FILE => read::read_file(call).await,
        methods::READ_TEXT_FILE => read::read_text_file(call).await,
        methods::WRITE_FILE => write::write_file(call).await,
        methods::WRITE_TEXT_FILE => write::write_text_file(call).await,
        methods::READ_DIR => listing::read_dir(call).await,
        methods::REMOVE => files::remove(call).await,
        methods::MKDIR => files::mkdir(call).await,
        methods::RENAME => files::rename(call).await,
        methods::STAT => files::stat(call).await,
        methods::LSTAT => files::lstat(call).await,
        methods::CHMOD => files::chmod(call).await,
        methods::CHOWN => files::chown(call).await,
        methods::COPY_FILE => files::copy_file(call).await,
        methods::LINK => files::link(call).await,
        methods::SYMLINK => files::symlink(call).await,
        methods::READ_LINK => files::read_link(call).await,
        methods::REAL_PATH => files::real_path(call).await,
        methods::TRUNCATE => files::truncate(call).await,
        methods::UMASK => files::umask(call).await,
        methods::UTIME => files::utime(call).await,
        methods::MAKE_TEMP_DIR => files::make_temp(call, files::Temporary::Directory).await,
        methods::MAKE_TEMP_FILE => files::make_temp(call, files::Temporary::File).await,
        methods::WALK => listing::walk(call).await,
        methods::EXPAND_GLOB => listing::expand_glob(call).await,
        methods::OPEN => handles::open(call).await,
        methods::CREATE => handles::create(call).await,
        methods::FILE_READ => handles::read(call).await,
        methods::FILE_WRITE => handles::write(call).await,
        methods::FILE_SEEK => handles::seek(call).await,
        methods::FILE_TRUNCATE => handles::truncate(call).await,
        methods::FILE_STAT => handles::stat(call).await,
        methods::FILE_SYNC => handles::sync(call, handles::Sync::Everything).await,
        methods::FILE_SYNC_DATA => handles::sync(call, handles::Sync::Data).await,
        methods::FILE_UTIME => handles::utime(call).await,
        methods::FILE_LOCK => handles::lock(call).await,
        methods::FILE_UNLOCK => handles::unlock(call).await,
        methods::FILE_CLOSE => handles::close(call).await,
        methods::EXPOSE_HTTP => expose::http(call).await,
        methods::VSCODE => vscode::start(call).await,
        methods::ENV_GET => env::get(call).await,
        methods::ENV_SET => env::set(call).await,
        methods::ENV_TO_OBJECT => env::to_object(call).await,
        methods::ENV_DELETE => env::delete(call).await,
        _ => Err(CallError::MethodNotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_sandbox_leaves_nothing_to_kill() {
        let cases = [
            (methods::PROCESS_KILL, "TypeError", "ENOENT"),
            (methods::PROCESS_WAIT, "ConnectionAborted", "ECONNABORTED"),
            (methods::READ_FILE, "ConnectionAborted", "ECONNABORTED"),
        ];
        for (method, constructor, code) in cases {
            let error = cut_off(method).unwrap();
            assert_eq!(error.constructor_name, constructor, "{method}");
            assert_eq!(error.code.as_deref(), Some(code), "{method}");
        }
        assert_eq!(cut_off(methods::DENO_REPL_CLOSE), None);
    }
}
