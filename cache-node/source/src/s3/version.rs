//! What tells two contents of an S3 key apart: the ETag, or, where listings give none, time and size.
//! Invariant: `is_met` is true only when the answer is of the version that was asked for, as far as that version can tell.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::primitives::DateTime;
use bytes::Bytes;

use crate::Version;

/// Begins a version made of time and size. No server is known whose ETags begin so.
const TIME_MARK: char = '~';

/// Without the quotes.
pub(super) fn from_etag(etag: &str) -> Version {
    Version(Bytes::copy_from_slice(unquoted(etag).as_bytes()))
}

/// Some servers (s3s-fs) list without ETags. Whole seconds, as the header of an answer has no more: an object replaced within the
/// second by one of the same size is not told apart.
pub(super) fn from_time(modified: SystemTime, size: u64) -> Version {
    let seconds = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Version(Bytes::from(format!("{TIME_MARK}{seconds}-{size}")))
}

/// The version of a request.
pub(super) enum Asked<'a> {
    Etag(&'a str),
    Time { seconds: i64, size: u64 },
}

impl<'a> Asked<'a> {
    /// `None`: no version of ours.
    pub(super) fn new(version: &'a Version) -> Option<Self> {
        let text = std::str::from_utf8(&version.0).ok().filter(|text| !text.is_empty())?;
        let Some(rest) = text.strip_prefix(TIME_MARK) else { return Some(Self::Etag(text)) };
        let (seconds, size) = rest.split_once('-')?;
        Some(Self::Time { seconds: seconds.parse().ok()?, size: size.parse().ok()? })
    }

    pub(super) fn if_match(&self) -> Option<String> {
        match self {
            Self::Etag(etag) => Some(format!("\"{etag}\"")),
            Self::Time { .. } => None,
        }
    }

    /// Whether an answer with these headers is of this version; `None` when it doesn't say.
    pub(super) fn is_met(&self, etag: Option<&str>, modified: Option<&DateTime>, total: Option<u64>) -> Option<bool> {
        match self {
            Self::Etag(asked) => etag.map(|etag| unquoted(etag) == *asked),
            Self::Time { seconds, size } => Some(modified?.secs() == *seconds && total? == *size),
        }
    }
}

fn unquoted(etag: &str) -> &str {
    etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(etag)
}
