//! Fetches from within a sandbox: its network, its policy and its secrets
//! hold. Bodies stream both ways.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use serde::de::DeserializeOwned;
pub use tombolo_api::rpc::Redirect;
use tombolo_api::rpc::{FetchParams, FetchResult, methods};

use crate::connection::Connection;
use crate::stream::{ReadStream, StreamError, WriteStream};
use crate::{CallError, Sandbox};

/// The longest body that is gathered unless told otherwise.
pub const BODY_LEN_MAX: usize = 64 * 1024 * 1024;

/// A cause for which the body of a request breaks off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request that is to be made from within a sandbox.
#[must_use = "nothing is asked yet"]
pub struct Fetch {
    connection: Connection,
    params: FetchParams,
    body: Body,
}

enum Body {
    None,
    Whole(Bytes),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers may hold credentials.
        formatter
            .debug_struct("Fetch")
            .field("url", &self.params.url)
            .field("method", &self.params.method)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch {url}")]
pub struct FetchError {
    url: String,
    #[source]
    source: FetchCause,
}

/// What went wrong on the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchCause {
    /// The request: the host cannot be reached, the address is none.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The body of the answer.
    #[error(transparent)]
    Body(#[from] StreamError),
    /// The body is not the JSON that was expected.
    #[error("the answer is not the JSON that was expected")]
    Json(#[from] serde_json::Error),
}

impl FetchError {
    /// What went wrong on the way.
    #[must_use]
    pub fn cause(&self) -> &FetchCause {
        &self.source
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match &self.source {
            FetchCause::Call(error) => error.next_step().or(Some(
                "look with `Sandbox::egress().explain` at what the policy says of it",
            )),
            FetchCause::Body(StreamError::TooLong { .. }) => Some("read the body as a stream"),
            _ => None,
        }
    }
}

impl Sandbox {
    /// A request that is to be made from within the sandbox. A host that its
    /// policy does not allow answers 403.
    pub fn fetch(&self, url: impl Into<String>) -> Fetch {
        Fetch::new(self.connection().clone(), url.into(), None)
    }
}

impl Fetch {
    pub(crate) fn new(connection: Connection, url: String, pid: Option<i32>) -> Self {
        Self {
            connection,
            params: FetchParams {
                url,
                method: None,
                headers: None,
                redirect: None,
                body_stream_id: None,
                pid,
            },
            body: Body::None,
        }
    }

    /// The method; `GET` unless this is set, or `POST` with a body.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.params.method = Some(method.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let headers = self.params.headers.get_or_insert_default();
        headers.push((name.into(), value.into()));
        self
    }

    /// What to do when sent elsewhere: go there unless this is set.
    pub fn redirect(mut self, redirect: Redirect) -> Self {
        self.params.redirect = Some(redirect);
        self
    }

    /// The body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// The body as it is made. It breaks off with the first error.
    pub fn body_stream(
        mut self,
        body: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    ) -> Self {
        self.body = Body::Stream(body.boxed());
        self
    }

    /// Makes the request and waits for the beginning of the answer. Dropping
    /// the future aborts it.
    ///
    /// # Errors
    /// A request that has no answer.
    pub async fn send(self) -> Result<Response, FetchError> {
        let url = self.params.url.clone();
        let answer = self.send_call().await;
        answer.map_err(|source| FetchError {
            url,
            source: source.into(),
        })
    }

    async fn send_call(self) -> Result<Response, CallError> {
        let Self {
            connection,
            mut params,
            body,
        } = self;
        let mut upload = None;
        if !matches!(body, Body::None) {
            let stream = connection.outbound().await?;
            params.body_stream_id = Some(stream.id());
            params.method.get_or_insert_with(|| "POST".to_owned());
            upload = Some(stream);
        }
        let method = methods::FETCH;
        let mut pending = connection.begin_abortable(method, &params).await?;
        let upload = upload.map(|stream| AbortOnDrop(tokio::spawn(pump(body, stream))));
        let answer: FetchResult = pending.reply().await?;
        let body = answer.body_stream_id.map(|id| connection.inbound(id));
        Ok(Response {
            url: params.url,
            status: answer.status,
            status_text: answer.status_text,
            headers: answer.headers,
            body,
            _upload: upload,
        })
    }
}

/// Sends a body. One that breaks off is told by dropping the stream.
async fn pump(body: Body, stream: WriteStream) {
    let sent = async {
        match body {
            Body::None => {}
            Body::Whole(bytes) => stream.write(&bytes).await?,
            Body::Stream(mut chunks) => {
                while let Some(chunk) = chunks.next().await {
                    stream.write(&chunk?).await?;
                }
            }
        }
        stream.finish().await?;
        Ok::<_, BodyError>(())
    };
    if let Err(error) = sent.await {
        tracing::debug!(%error, "the body of a request was not sent whole");
    }
}

/// A task that does not outlive its owner.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The answer to a fetch. Dropping it ends the transfer of its body.
#[derive(Debug)]
pub struct Response {
    url: String,
    /// From 200 to 599.
    pub status: u16,
    /// The words beside it, which may be empty.
    pub status_text: String,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, decoded, if there is one. Take it to read it in pieces.
    pub body: Option<ReadStream>,
    _upload: Option<AbortOnDrop>,
}

impl Response {
    /// Whether the status is from 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn failed(&self, source: impl Into<FetchCause>) -> FetchError {
        FetchError {
            url: self.url.clone(),
            source: source.into(),
        }
    }

    /// The whole body, of at most [`BODY_LEN_MAX`] bytes; empty if there is
    /// none.
    ///
    /// # Errors
    /// A body that breaks off or is longer.
    pub async fn bytes(mut self) -> Result<Bytes, FetchError> {
        match self.body.take() {
            None => Ok(Bytes::new()),
            Some(body) => {
                let whole = body.read_to_end(BODY_LEN_MAX).await;
                whole.map_err(|source| self.failed(source))
            }
        }
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`Response::bytes`], and what is not UTF-8.
    pub async fn text(mut self) -> Result<String, FetchError> {
        match self.body.take() {
            None => Ok(String::new()),
            Some(body) => {
                let whole = body.read_to_string(BODY_LEN_MAX).await;
                whole.map_err(|source| self.failed(source))
            }
        }
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`Response::bytes`], and what is not the JSON that is expected.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, FetchError> {
        let url = self.url.clone();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|source| FetchError {
            url,
            source: source.into(),
        })
    }
}
