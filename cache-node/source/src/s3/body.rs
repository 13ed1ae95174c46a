//! The body of one answer, held to the length that was asked for.
//! Invariant: the stream ends after exactly the extent's length, or with an error.

use aws_sdk_s3::primitives::ByteStream;
use futures::StreamExt;

use super::error::Context;
use crate::Body;

struct State {
    stream: ByteStream,
    left: u64,
    context: Context,
}

/// `length` bytes of `stream`; one more or less is an error. The end of the stream is always awaited, since a checksum is
/// compared there.
pub(super) fn exact(stream: ByteStream, length: u64, context: Context) -> Body {
    let state = State { stream, left: length, context };
    futures::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        loop {
            let bytes = match state.stream.next().await {
                None if state.left == 0 => return None,
                None => {
                    let detail = format!("the body ended {} bytes early", state.left);
                    return Some((Err(state.context.unavailable(detail)), None));
                }
                Some(Err(error)) => return Some((Err(state.context.body(&error)), None)),
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => bytes,
            };
            let Some(left) = state.left.checked_sub(bytes.len() as u64) else {
                return Some((Err(state.context.corrupt("the body is longer than announced")), None));
            };
            state.left = left;
            return Some((Ok(bytes), Some(state)));
        }
    })
    .boxed()
}
