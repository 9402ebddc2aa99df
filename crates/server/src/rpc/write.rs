//! Whole files from a call's content or from a client stream.
//!
//! Data goes to the guest in small chunks as fast as the guest takes it; what
//! has not been taken yet waits in the client's stream. A content that fails
//! midway leaves what was written before, as a local write would.

use base64::Engine as _;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_api::rpc::{ErrorObject, WriteParams};
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::{self, WriteFileChunk, write_file_chunk::Part};

use super::call::Call;
use super::fault::CallError;
use super::frame::BASE64;
use super::inbound::InboundStream;
use super::long::NotBase64;
use super::params;
use super::reply::Reply;

/// Chunks on their way to the guest.
const CHUNKS_AHEAD: usize = 4;
/// Characters of base64 that give at most one chunk, in whole groups.
const BASE64_SLICE_LEN: usize = CHUNK_LEN_MAX / 3 * 4;

/// How a call's content is written in JSON.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Base64,
    Text,
}

pub(super) async fn write_file(call: &mut Call) -> Result<Reply, CallError> {
    write(call, Encoding::Base64).await
}

pub(super) async fn write_text_file(call: &mut Call) -> Result<Reply, CallError> {
    write(call, Encoding::Text).await
}

async fn write(call: &mut Call, encoding: Encoding) -> Result<Reply, CallError> {
    let stream = call.take_stream()?;
    let long_content = call.take_content();
    let params: WriteParams<'_> = call.params()?;
    let options = params.options.unwrap_or_default();
    let open = v1::WriteFileOpen {
        path: params.path,
        append: options.append.unwrap_or(false),
        create: options.create.unwrap_or(true),
        create_new: options.create_new.unwrap_or(false),
        mode: options.mode,
    };
    let not_base64 = |_: NotBase64| params::invalid(&["content"], "base64", "string");
    let source = match (stream, long_content.map_err(not_base64)?, &params.content) {
        (Some(stream), _, _) | (None, Some(stream), _) => Source::Stream(stream),
        (None, None, Some(content)) => Source::content(content.as_ref(), encoding)?,
        (None, None, None) => return Err(params::invalid(&["content"], "string", "undefined")),
    };
    send(call, open, source).await?;
    call.null()
}

/// Writes a file of ours, in the place of one that may be there.
pub(super) async fn whole(call: &Call, path: &str, content: &[u8]) -> Result<(), CallError> {
    let open = v1::WriteFileOpen {
        path: path.to_owned(),
        create: true,
        ..v1::WriteFileOpen::default()
    };
    send(call, open, Source::Text(content)).await
}

/// Where the content comes from.
enum Source<'a> {
    Stream(InboundStream),
    Base64(&'a str),
    Text(&'a [u8]),
}

impl<'a> Source<'a> {
    /// Checks the content before any of it is written.
    fn content(content: &'a str, encoding: Encoding) -> Result<Self, CallError> {
        match encoding {
            Encoding::Text => Ok(Self::Text(content.as_bytes())),
            Encoding::Base64 if is_base64(content) => Ok(Self::Base64(content)),
            Encoding::Base64 => Err(params::invalid(&["content"], "base64", "string")),
        }
    }

    /// The next bytes.
    async fn next(&mut self) -> Option<Result<Bytes, Box<ErrorObject>>> {
        match self {
            Self::Stream(stream) => stream.next().await,
            Self::Text(rest) => {
                let (chunk, after) = rest.split_at(rest.len().min(CHUNK_LEN_MAX));
                *rest = after;
                (!chunk.is_empty()).then(|| Ok(Bytes::copy_from_slice(chunk)))
            }
            Self::Base64(rest) => {
                let (slice, after) = rest
                    .split_at_checked(BASE64_SLICE_LEN)
                    .unwrap_or((rest, ""));
                *rest = after;
                if slice.is_empty() {
                    return None;
                }
                let decoded = BASE64.decode(slice);
                Some(
                    decoded
                        .map(Bytes::from)
                        .map_err(|_invalid| Box::new(not_base64())),
                )
            }
        }
    }
}

/// Whether all of `text` decodes: only its end may be padding.
fn is_base64(text: &str) -> bool {
    let start_of_last = text.len().saturating_sub(1) / 4 * 4;
    let Some((whole, last)) = text.split_at_checked(start_of_last) else {
        return false;
    };
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    whole.bytes().all(in_alphabet) && BASE64.decode(last).is_ok()
}

fn not_base64() -> ErrorObject {
    ErrorObject::new("InvalidData", "The content is not base64")
}

/// Why sending content to the guest stopped.
enum Stopped {
    /// The source failed; what the guest has is incomplete.
    Source(Box<ErrorObject>),
    /// The guest takes no more, and its answer says why.
    Guest,
}

async fn send(
    call: &Call,
    open: v1::WriteFileOpen,
    mut source: Source<'_>,
) -> Result<(), CallError> {
    // The file is opened once there is something to write, so that streams
    // which have not begun cost the guest nothing.
    let first = source.next().await.transpose()?;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let mut agent = call.connection.agent.client();
    let answer = agent.write_file(ReceiverStream::new(receiver));
    let feed = async move {
        let open = WriteFileChunk {
            part: Some(Part::Open(open)),
        };
        sender.send(open).await.map_err(|_refused| Stopped::Guest)?;
        let mut next = first;
        while let Some(mut data) = next {
            while !data.is_empty() {
                let part = Part::Data(data.split_to(data.len().min(CHUNK_LEN_MAX)));
                let chunk = WriteFileChunk { part: Some(part) };
                sender
                    .send(chunk)
                    .await
                    .map_err(|_refused| Stopped::Guest)?;
            }
            next = source.next().await.transpose().map_err(Stopped::Source)?;
        }
        // Dropping the sender ends the content.
        Ok(())
    };
    tokio::pin!(answer, feed);
    tokio::select! {
        // A small file is all there when the call is first polled, and leaves
        // in one piece.
        biased;
        fed = &mut feed => match fed {
            Ok(()) | Err(Stopped::Guest) => answer.await?,
            Err(Stopped::Source(error)) => return Err(error.into()),
        },
        // An answer that comes before all is sent is an error.
        answer = &mut answer => answer?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_is_checked_whole() {
        let good = ["", "aGk=", "aGk", "aGkh", "aGkhaGk="];
        for text in good {
            assert!(is_base64(text), "{text}");
        }
        let bad = [
            "a", "aG=k", "aGk=aGk=", "aGk!", "ü", "aaaü", "aGk\n", "====",
        ];
        for text in bad {
            assert!(!is_base64(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_check_agrees_with_the_decoder(text in "[A-Da-d+/=ü ]{0,12}") {
            prop_assert_eq!(is_base64(&text), BASE64.decode(&text).is_ok());
        }
    }
}
