//! One call, and what its handler may use.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tombolo_api::rpc::ErrorObject;
use tonic::{Response, Status};

use super::aborts::Abortable;
use super::budget::Permit;
use super::connection::Connection;
use super::fault::CallError;
use super::frame::RequestId;
use super::guest_call::{Client, Repeat, guest_call};
use super::handle_table::Turn;
use super::inbound::{InboundStream, StreamTaken};
use super::long::NotBase64;
use super::outgoing::Fragments;
use super::params;
use super::reply::{Reply, ReplyWriter};

/// One call. All that depends on the order of messages was settled when its
/// message was read: which stream it consumes, whether an abort can find it,
/// and its turn on an open file.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) connection: Arc<Connection>,
    pub(super) id: RequestId,
    pub(super) params: Bytes,
    /// The content of a message that was too long to be held, in the place of
    /// the parameter that then is empty.
    pub(super) content: Option<Result<InboundStream, NotBase64>>,
    /// The client stream that the call names.
    pub(super) stream: Option<Result<InboundStream, StreamTaken>>,
    pub(super) abortable: Option<Abortable>,
    pub(super) turn: Option<Turn>,
    /// The answer, if a part of it was sent already.
    pub(super) fragments: Option<Fragments>,
    pub(super) _permits: CallPermits,
}

/// What a call counts against, as long as it is at work.
#[derive(Debug)]
pub(super) struct CallPermits {
    pub(super) _in_flight: OwnedSemaphorePermit,
    pub(super) _message: Option<Permit>,
}

impl Call {
    pub(super) fn params<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        params::parse(&self.params)
    }

    pub(super) fn ok<T: Serialize>(&self, value: &T) -> Result<Reply, CallError> {
        Reply::ok(&self.id, value)
    }

    pub(super) fn null(&self) -> Result<Reply, CallError> {
        self.ok(&())
    }

    pub(super) fn reply_writer(&self) -> ReplyWriter {
        ReplyWriter::new(&self.id)
    }

    /// Takes the client stream that the call names.
    pub(super) fn take_stream(&mut self) -> Result<Option<InboundStream>, CallError> {
        match self.stream.take() {
            None => Ok(None),
            Some(Ok(stream)) => Ok(Some(stream)),
            Some(Err(taken)) => Err(ErrorObject::new("TypeError", taken.to_string()).into()),
        }
    }

    /// Takes the content that came by itself, if it did.
    pub(super) fn take_content(&mut self) -> Result<Option<InboundStream>, NotBase64> {
        self.content.take().transpose()
    }

    /// A guest call that changes something.
    pub(super) async fn guest<R, T, F, Answer>(&self, request: R, call: F) -> Result<T, CallError>
    where
        R: Clone,
        F: Fn(Client, R) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let agent = &self.connection.agent;
        Ok(guest_call(agent, Repeat::IfUnsent, request, call).await?)
    }

    /// A guest call that only reads.
    pub(super) async fn guest_read<R, T, F, Answer>(
        &self,
        request: R,
        call: F,
    ) -> Result<T, CallError>
    where
        R: Clone,
        F: Fn(Client, R) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let agent = &self.connection.agent;
        Ok(guest_call(agent, Repeat::IfLost, request, call).await?)
    }
}
