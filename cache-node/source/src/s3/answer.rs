//! What the head of an answer says about an object, and whether that is what was asked for.
//! Knows S3's headers. Does not read a body.
//! Invariant: an answer that `is_for` lets pass is of the version and of exactly the bytes that were asked for, as far as headers can tell.

use std::time::SystemTime;

use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use forebay_wire::block::Extent;

use super::error::Context;
use super::version::Asked;
use crate::SourceError;

/// The head of one answer.
#[derive(Clone, Copy)]
pub(super) struct Head<'a>(pub &'a Headers);

impl Head<'_> {
    pub(super) fn etag(&self) -> Option<&str> {
        self.0.get("etag")
    }

    fn last_modified(&self) -> Option<DateTime> {
        DateTime::from_str(self.0.get("last-modified")?, Format::HttpDate).ok()
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.last_modified()?.try_into().ok()
    }

    /// Bytes of the body, or of the body that a HEAD stands for.
    pub(super) fn length(&self) -> Option<u64> {
        self.0.get("content-length")?.parse().ok()
    }

    /// Bytes of the whole object, as the answer to a part of it says.
    fn total(&self) -> Option<u64> {
        match self.0.get("content-range") {
            Some(range) => range.rsplit_once('/')?.1.parse().ok(),
            None => self.length(),
        }
    }

    /// An error unless the answer says that it is of the version `asked`.
    pub(super) fn is_of(&self, asked: &Asked<'_>, context: &Context) -> Result<(), SourceError> {
        match asked.is_met(self.etag(), self.last_modified().as_ref(), self.total()) {
            Some(true) => Ok(()),
            Some(false) => Err(context.clone().replaced()),
            None => Err(context.clone().corrupt("the answer doesn't say which version it is of (no ETag)")),
        }
    }

    /// The same, and unless it is of these bytes.
    pub(super) fn is_for(&self, asked: &Asked<'_>, extent: Extent, whole: bool, context: &Context) -> Result<(), SourceError> {
        self.is_of(asked, context)?;
        let corrupt = |detail: String| Err(context.clone().corrupt(detail));
        match (whole, self.0.get("content-range")) {
            (true, None) => {}
            (true, Some(range)) => return corrupt(format!("asked for the whole object, got {range}")),
            (false, Some(range)) if is_range(range, extent) => {}
            (false, Some(range)) => return corrupt(format!("asked for bytes {}-{}, got {range}", extent.start(), extent.end() - 1)),
            (false, None) => return corrupt("the answer is not for a range".into()),
        }
        match self.0.get("content-length") {
            Some(length) if length.parse() != Ok(extent.len()) => {
                corrupt(format!("asked for {} bytes, {length} were announced", extent.len()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// `bytes 0-99/1234`, where the total may be `*`.
fn is_range(text: &str, extent: Extent) -> bool {
    let parts =
        text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).and_then(|(range, total)| Some((range.split_once('-')?, total)));
    parts.is_some_and(|((first, last), _)| first.parse() == Ok(extent.start()) && last.parse() == Ok(extent.end() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_range_that_was_asked_for_is_taken() {
        let extent = Extent::new(10, 20).expect("not empty");
        for (text, expected) in [
            ("bytes 10-19/100", true),
            ("bytes 10-19/*", true),
            ("bytes 10-20/100", false),
            ("bytes 9-19/100", false),
            ("bytes 0-9/100", false),
            ("10-19/100", false),
            ("bytes 10-19", false),
            ("bytes */100", false),
        ] {
            assert_eq!(is_range(text, extent), expected, "{text}");
        }
    }
}
