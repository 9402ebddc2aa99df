//! Names: every question of a guest is answered here, whoever it was sent to (DNS-03).
//!
//! A permitted name has an address of ours. No question is ever asked of anybody else for
//! it, so nothing can be carried out in names (DNS-01); the name itself is resolved when
//! somebody connects. All questions but those for addresses of permitted names have empty
//! or negative answers.

pub(crate) mod answer;
mod datagram;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tombolo_diag::LogLimit;
use tombolo_policy::Rate;

pub(crate) use datagram::Datagrams;

use crate::{sandbox::Sandbox, stream::Rewound};

/// Questions of one sandbox: so many at once, and as many in each second.
const QUESTIONS_MAX: u32 = 500;
const QUESTIONS_PERIOD: Duration = Duration::from_secs(1);
/// How long a TCP client may take for a question.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions on one TCP connection.
const STREAM_QUESTIONS_MAX: usize = 256;

/// Serves datagrams until the sandbox ends.
pub(crate) async fn serve_datagrams(sandbox: Arc<Sandbox>, socket: Datagrams) {
    static LIMIT: LogLimit = LogLimit::new();
    let mut buffer = vec![0; datagram::LEN_MAX];
    loop {
        let received = tokio::select! {
            received = socket.receive(&mut buffer) => received,
            () = sandbox.closed.cancelled() => return,
        };
        let (len, source, original) = match received {
            Ok(received) => received,
            Err(error) => {
                // An answer that could not be delivered, at worst: the next may.
                if let Some(permit) = LIMIT.permit() {
                    tracing::debug!(%error, suppressed = permit.suppressed, "no question");
                }
                tokio::task::yield_now().await;
                continue;
            }
        };
        let question = buffer.get(..len).unwrap_or_default();
        let answer = ask(&sandbox, question, source, original).await;
        if let Some(answer) = answer
            && let Err(error) = socket.answer(&answer, source, original).await
            && let Some(permit) = LIMIT.permit()
        {
            tracing::debug!(%error, suppressed = permit.suppressed, "cannot answer");
        }
    }
}

/// Serves DNS over TCP (RFC 7766).
pub(crate) async fn serve_stream(
    sandbox: &Arc<Sandbox>,
    mut stream: Rewound<TcpStream>,
    source: SocketAddr,
    original: SocketAddr,
) {
    let serve = async {
        for _ in 0..STREAM_QUESTIONS_MAX {
            let question = timeout(STREAM_TIMEOUT, read(&mut stream))
                .await
                .ok()?
                .ok()?;
            let answer = ask(sandbox, &question, source, original).await?;
            let len = u16::try_from(answer.len()).ok()?;
            let framed = [&len.to_be_bytes(), answer.as_slice()].concat();
            timeout(STREAM_TIMEOUT, stream.write_all(&framed))
                .await
                .ok()?
                .ok()?;
        }
        Some(())
    };
    // A client that breaks off is no concern of anybody.
    tokio::select! {
        _ended = serve => {}
        () = sandbox.closed.cancelled() => {}
    }
}

async fn read(stream: &mut Rewound<TcpStream>) -> std::io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut question = vec![0; usize::from(len)];
    stream.read_exact(&mut question).await?;
    Ok(question)
}

/// Answers one question and records it. None: it deserves no answer.
async fn ask(
    sandbox: &Arc<Sandbox>,
    question: &[u8],
    source: SocketAddr,
    original: SocketAddr,
) -> Option<Vec<u8>> {
    let facts = sandbox.flow_facts(source, original, None);
    let mut draft = sandbox.begin_record(&facts, "dns");
    draft.record.req_bytes = question.len() as u64;
    let now = sandbox.shared.clock.now();
    let is_within = Rate::per(QUESTIONS_MAX, QUESTIONS_PERIOD)
        .is_some_and(|rate| sandbox.with_dns_rate(|state| rate.take(state, now)));
    if !is_within {
        draft.record.refused("dns_rate");
        return None;
    }
    let rules = sandbox.rules();
    let answer = answer::answer(question, &mut draft.record, |name| {
        answer::addresses(sandbox, &rules, name, now)
    });
    if draft.record.decision == crate::audit::Outcome::Deny {
        draft.keep().await;
    }
    draft.record.resp_bytes = answer.as_ref().map_or(0, |answer| answer.len() as u64);
    answer
}
