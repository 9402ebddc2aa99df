//! The place of the one server of a state directory. Whoever comes takes it when it is
//! free, and is refused while a server that stays has it. A server that `tombolo run`
//! started makes room for `tombolo up` if nobody needs it; it decides that itself, at
//! the same moment at which it stops to create sandboxes, so that none is lost.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;
use tombolo_api::error::ErrorCode;
use tombolo_api::native::{RETIRE_PATH, Retirement};
use tombolo_client::{Client, Endpoint, RequestError};
use tombolo_diag::ExitCode;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::state::{Holder, Running, StateDir, Tenure, UpLock};
use crate::{local, output, wire};

/// How long one that makes room, or is just starting, is waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long to look for who has the place. It is written right after it was taken.
const NAMELESS_MAX: Duration = Duration::from_secs(1);
/// How long a question may take.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How often to look whether the place is free.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A wait that is shorter is not worth a word.
const QUIET_FOR: Duration = Duration::from_millis(300);
/// How many sandboxes are named.
const NAMED_MAX: usize = 5;

/// What a server that was asked to make room said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is ending and takes no more sandboxes.
    Ends,
    /// It has sandboxes: these, or some that are just being created or ended.
    Needed(Vec<String>),
    /// It does not make room.
    Stays,
    /// Nothing: it is starting or ending.
    Silent,
}

/// What to do about a place that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// It will be free, or it will be clear who has it.
    Wait,
    /// Somebody else's server is there, which does not make room.
    Taken,
    /// The server that is there has these sandboxes.
    Needed(Vec<String>),
}

/// What who comes for `tenure` does about who has the place. Who comes to stay has
/// asked; `tombolo run`, which takes any server, has looked whether this one serves.
fn next(tenure: Tenure, holder: Option<Holder>, answer: Answer, waited: Duration) -> Next {
    let Some(holder) = holder else {
        return if waited < NAMELESS_MAX {
            Next::Wait
        } else {
            Next::Taken
        };
    };
    match (holder.tenure, tenure, answer) {
        (Tenure::Stays, _, _) | (Tenure::Passes, _, Answer::Stays) => Next::Taken,
        (Tenure::Passes, Tenure::Stays, Answer::Needed(sandboxes)) if !sandboxes.is_empty() => {
            Next::Needed(sandboxes)
        }
        _ if waited < PATIENCE => Next::Wait,
        _ => Next::Taken,
    }
}

/// Takes the place, which may need one that is there to make room. Refuses at once
/// where that does not happen.
pub(crate) async fn take(context: &Context, tenure: Tenure) -> Outcome<UpLock> {
    let started = Instant::now();
    let mut is_told = false;
    loop {
        if let Some(lock) = UpLock::take(&context.state, tenure)? {
            return Ok(lock);
        }
        let holder = UpLock::holder(&context.state);
        let answer = match (holder, tenure) {
            (Some(holder), _) if holder.tenure == Tenure::Stays => Answer::Stays,
            (Some(holder), Tenure::Stays) => ask(context, holder).await?,
            (Some(_), Tenure::Passes) if serves(context).await => Answer::Stays,
            _ => Answer::Silent,
        };
        match next(tenure, holder, answer, started.elapsed()) {
            Next::Wait => {}
            Next::Taken => return Err(taken(&context.state, holder)),
            Next::Needed(sandboxes) => return Err(needed(&context.state, &sandboxes)),
        }
        if !is_told && started.elapsed() >= QUIET_FOR {
            output::tell("taking the place of the server that \"tombolo run\" started ...");
            is_told = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn serves(context: &Context) -> bool {
    // One that does not answer yet is asked again by whoever looks again.
    matches!(context.state.running(), Ok(Some(running)) if answers(&running).await)
}

async fn answers(running: &Running) -> bool {
    match Endpoint::parse(&running.url) {
        Ok(endpoint) => {
            let client = Client::new(endpoint, tombolo_client::Token::new(""));
            local::is_alive(running.pid) && client.healthy().await
        }
        Err(_) => false,
    }
}

async fn ask(context: &Context, holder: Holder) -> Outcome<Answer> {
    match context.state.running()? {
        // What an earlier one left behind leads to nobody, or to a stranger.
        Some(running) if running.pid == holder.pid => make_room(context, &running).await,
        _ => Ok(Answer::Silent),
    }
}

/// Asks a server to make room.
pub(crate) async fn make_room(context: &Context, running: &Running) -> Outcome<Answer> {
    let token = match local::read_token(&context.state.admin_token_file()) {
        Ok(token) => token,
        // It is the last file that one that ends removes.
        Err(failure) if failure.code() == ExitCode::Unavailable => return Ok(Answer::Silent),
        Err(failure) => return Err(failure),
    };
    let admin = Client::new(Endpoint::parse(&running.url)?, token);
    let asked = admin.send::<_, Retirement>(Method::POST, RETIRE_PATH, &());
    let error = match tokio::time::timeout(ASK_MAX, asked).await {
        Ok(Ok(_retirement)) => return Ok(Answer::Ends),
        Ok(Err(error)) => error,
        Err(_elapsed) => return Ok(Answer::Silent),
    };
    match error.refusal() {
        Some(refusal) if wire::is(refusal, ErrorCode::ServerInUse) => {
            Ok(match sandboxes(&admin).await {
                Ok(sandboxes) => Answer::Needed(sandboxes),
                Err(error) => {
                    tracing::debug!(%error, "it does not say which sandboxes it has");
                    Answer::Silent
                }
            })
        }
        Some(_) => Ok(Answer::Stays),
        None => {
            tracing::debug!(%error, "it does not answer");
            Ok(Answer::Silent)
        }
    }
}

/// Those that have not ended, whoever's.
async fn sandboxes(admin: &Client) -> Result<Vec<String>, RequestError> {
    let rows = admin.sandboxes().running().all().await?;
    Ok(rows.into_iter().map(|row| row.id.to_string()).collect())
}

fn taken(state: &StateDir, holder: Option<Holder>) -> Failure {
    let hint = match (state.running(), holder) {
        (Ok(Some(running)), _) => format!(
            "it is process {} and serves {}; stop it by: kill {}",
            running.pid, running.url, running.pid
        ),
        (_, Some(holder)) => format!(
            "it is process {}, which is starting or ending; wait for it, or choose another \
             --state-dir",
            holder.pid
        ),
        _ => "wait until it has ended, or choose another --state-dir".to_owned(),
    };
    // A code of its own: whoever starts one in the background waits for the
    // other instead.
    Failure::message(
        ExitCode::TryAgain,
        format!("\"tombolo up\" runs on {} already", state.root().display()),
    )
    .hint(hint)
}

fn needed(state: &StateDir, sandboxes: &[String]) -> Failure {
    Failure::message(
        ExitCode::TryAgain,
        format!(
            "the server that \"tombolo run\" started on {} has sandboxes: {}",
            state.root().display(),
            named(sandboxes)
        ),
    )
    .hint(
        "wait until they have ended, or end them all by: tombolo sandbox kill --all; then start \
         \"tombolo up\" again",
    )
}

/// Some of them by their names, the others by their number.
pub(super) fn named(sandboxes: &[String]) -> String {
    let (first, others) = sandboxes.split_at(sandboxes.len().min(NAMED_MAX));
    let first = first.join(", ");
    match others.len() {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_place_is_waited_for_or_not_disturbed() {
        use Tenure::{Passes, Stays};
        let (soon, late) = (Duration::from_millis(500), Duration::from_secs(1));
        let never = PATIENCE;
        let some = || vec!["sbx".to_owned()];
        let needed = || Answer::Needed(some());
        let creating = || Answer::Needed(Vec::new());
        let cases = [
            // Who comes, who is there, what it says, for how long: what follows.
            (Stays, None, Answer::Silent, soon, Next::Wait),
            (Stays, None, Answer::Silent, late, Next::Taken),
            (Passes, None, Answer::Silent, soon, Next::Wait),
            (Passes, None, Answer::Silent, late, Next::Taken),
            (Stays, Some(Stays), Answer::Stays, soon, Next::Taken),
            (Stays, Some(Stays), Answer::Ends, soon, Next::Taken),
            (Stays, Some(Stays), Answer::Silent, soon, Next::Taken),
            (Passes, Some(Stays), Answer::Stays, soon, Next::Taken),
            (Passes, Some(Stays), Answer::Silent, soon, Next::Taken),
            (Stays, Some(Passes), Answer::Ends, late, Next::Wait),
            (Stays, Some(Passes), Answer::Silent, late, Next::Wait),
            (Stays, Some(Passes), creating(), late, Next::Wait),
            (Stays, Some(Passes), needed(), soon, Next::Needed(some())),
            (Stays, Some(Passes), needed(), never, Next::Needed(some())),
            (Stays, Some(Passes), Answer::Stays, soon, Next::Taken),
            (Stays, Some(Passes), Answer::Ends, never, Next::Taken),
            (Stays, Some(Passes), Answer::Silent, never, Next::Taken),
            (Stays, Some(Passes), creating(), never, Next::Taken),
            (Passes, Some(Passes), Answer::Stays, soon, Next::Taken),
            (Passes, Some(Passes), Answer::Silent, late, Next::Wait),
            (Passes, Some(Passes), Answer::Silent, never, Next::Taken),
        ];
        for (comer, there, answer, waited, expected) in cases {
            let holder = there.map(|tenure| Holder { pid: 1, tenure });
            let case = format!("{comer:?} {there:?} {answer:?} {waited:?}");
            assert_eq!(next(comer, holder, answer, waited), expected, "{case}");
        }
    }

    #[test]
    fn many_sandboxes_are_counted() {
        let ids: Vec<String> = (0..7).map(|number| format!("s{number}")).collect();
        assert_eq!(named(&ids[..2]), "s0, s1");
        assert_eq!(named(&ids[..5]), "s0, s1, s2, s3, s4");
        assert_eq!(named(&ids), "s0, s1, s2, s3, s4 and 2 more");
    }
}
