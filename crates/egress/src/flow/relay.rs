//! Bytes that are passed on unread, to where the policy allowed and nowhere else.

use std::sync::atomic::Ordering;

use tokio::{io::copy_bidirectional, net::TcpStream};

use super::Flow;
use crate::{
    audit::Draft,
    rules::Rules,
    stream::{Rewound, Traffic},
};

/// Joins the guest with the vetted address, until both have ended.
pub(super) async fn relay(
    flow: &Flow,
    mut stream: Rewound<TcpStream>,
    rules: &Rules,
    mut draft: Draft,
) {
    draft.record.decided(&flow.decide(rules));
    let dialler = flow.sandbox.pool.dialler();
    let mut dialled = match dialler.tcp(&rules.policy, &flow.place).await {
        Ok(dialled) => dialled,
        Err(error) => {
            if let crate::upstream::DialError::Denied(decision) = &error {
                draft.record.decided(decision);
                draft.keep().await;
            } else {
                draft.record.failed(error.code());
            }
            return stream.reset();
        }
    };
    draft.record.resolved_ip = Some(dialled.address.ip().to_string());
    draft.record.overridden = dialled.overridden;
    // The record is written even if the flow is ended from outside.
    let mut draft = Counted {
        traffic: stream.traffic(),
        draft,
    };
    if copy_bidirectional(&mut stream, &mut dialled.stream)
        .await
        .is_err()
    {
        draft.draft.record.err = Some("broken");
    }
}

/// Puts the bytes that went through into the record.
struct Counted {
    traffic: std::sync::Arc<Traffic>,
    draft: Draft,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.draft.record.req_bytes = self.traffic.read.load(Ordering::Relaxed);
        self.draft.record.resp_bytes = self.traffic.written.load(Ordering::Relaxed);
    }
}
