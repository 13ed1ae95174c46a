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

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::checksum::Algorithm;

    /// What comes of a body that is asked to be 9 bytes long and to agree with the CRC-32 of `123456789`.
    async fn read(body: &'static [u8]) -> String {
        let context = Context { op: "read", key: "k".into(), origin: "s3://b/".into(), bucket: "b".into() };
        let sum = Checksum::new(Algorithm::Crc32, vec![0xcb, 0xf4, 0x39, 0x26]);
        let parts = exact(ByteStream::from_static(body), 9, Some(sum), context).try_collect::<Vec<_>>().await;
        parts.map_or_else(|error| format!("{error:?}"), |parts| String::from_utf8_lossy(&parts.concat()).into_owned())
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_asked_and_agrees_with_its_checksum() {
        for (body, expected, detail) in [
            (&b"123456789"[..], "123456789", ""),
            (b"12345678", "Unavailable", "ended 1 bytes early"),
            (b"", "Unavailable", "ended 9 bytes early"),
            (b"1234567890", "Corrupt", "longer than announced"),
            (b"123456780", "Corrupt", "checksum mismatch"),
        ] {
            let got = read(body).await;
            assert!(got.starts_with(expected) && got.contains(detail), "{got}");
        }
    }
}
