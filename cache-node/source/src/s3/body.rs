//! The body of one answer, held to the length that was asked for and to the checksum that came with it.
//! Invariant: the stream ends after exactly the extent's length and, where there is a checksum, with bytes that agree with it; else with an error.

use aws_sdk_s3::primitives::ByteStream;
use futures::StreamExt;

use super::error::Context;
use crate::Body;
use crate::checksum::{Checksum, Hasher};

struct State {
    stream: ByteStream,
    left: u64,
    sum: Option<(Checksum, Hasher)>,
    context: Context,
}

/// `length` bytes of `stream`; one more or less is an error. The end of the stream is always awaited: only then is the connection free for the next
/// request.
pub(super) fn exact(stream: ByteStream, length: u64, sum: Option<Checksum>, context: Context) -> Body {
    let sum = sum.map(|sum| (sum.clone(), sum.hasher()));
    let state = State { stream, left: length, sum, context };
    futures::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        loop {
            let bytes = match state.stream.next().await {
                None if state.left == 0 => {
                    let (sum, hasher) = state.sum?;
                    let detail = || format!("checksum mismatch: the bytes don't agree with the {:?} that came with them", sum.algorithm());
                    return (!hasher.is_met()).then(|| (Err(state.context.corrupt(detail())), None));
                }
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
            if let Some((_, hasher)) = &mut state.sum {
                hasher.update(&bytes);
            }
            return Some((Ok(bytes), Some(state)));
        }
    })
    .boxed()
}
