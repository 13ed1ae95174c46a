//! The XML of one page of a listing.

use std::io::Write;

use super::keys::{Keys, etag};

pub(crate) struct Page {
    pub(crate) prefix: Vec<u8>,
    pub(crate) delimiter: Option<u8>,
    pub(crate) limit: usize,
    /// Keys are percent-escaped, and the answer says so.
    pub(crate) is_url: bool,
}

impl Page {
    /// The page of what comes after `after`, whose objects have `size` bytes.
    pub(crate) fn write(&self, keys: &Keys, after: &[u8], size: u64) -> Vec<u8> {
        let mut rows = Vec::with_capacity(self.limit * 280);
        let (mut here, mut count, mut last) = (String::new(), 0, Vec::new());
        // Strictly after: the least key greater than `after` is it with a NUL.
        let start = if after.is_empty() { 0 } else { keys.lower_bound(&[after, &[0]].concat()) };
        let mut index = start.max(keys.lower_bound(&self.prefix));
        let mut is_truncated = false;
        while index < keys.count() {
            keys.write(index, &mut here);
            let Some(rest) = here.as_bytes().strip_prefix(&self.prefix[..]) else { break };
            if count == self.limit {
                is_truncated = true;
                break;
            }
            let folder =
                self.delimiter.and_then(|delimiter| rest.iter().position(|byte| *byte == delimiter)).map(|at| self.prefix.len() + at + 1);
            last.clear();
            // Writing into a Vec can't fail.
            let _ = match folder {
                Some(end) => {
                    let folder = &here.as_bytes()[..end];
                    last.extend_from_slice(folder);
                    last.push(0xFF);
                    index = keys.lower_bound(&last);
                    write!(rows, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", self.shown(folder))
                }
                None => {
                    last.extend_from_slice(here.as_bytes());
                    let etag = etag(index);
                    index += 1;
                    write!(
                        rows,
                        "<Contents><Key>{}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>\
                         <Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                        self.shown(here.as_bytes())
                    )
                }
            };
            count += 1;
        }
        let mut body = Vec::with_capacity(rows.len() + 512);
        let encoding = if self.is_url { "<EncodingType>url</EncodingType>" } else { "" };
        let _ = write!(
            body,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Prefix>{}</Prefix>\
             <KeyCount>{count}</KeyCount><MaxKeys>{}</MaxKeys>{encoding}<IsTruncated>{is_truncated}</IsTruncated>",
            self.shown(&self.prefix),
            self.limit
        );
        if is_truncated {
            let _ = write!(body, "<NextContinuationToken>{}</NextContinuationToken>", escaped(&last));
        }
        body.extend_from_slice(&rows);
        body.extend_from_slice(b"</ListBucketResult>");
        body
    }

    /// Generated keys hold nothing that XML would have to escape; what a client sent may.
    fn shown(&self, key: &[u8]) -> String {
        if self.is_url { escaped(key) } else { String::from_utf8_lossy(key).replace('&', "&amp;").replace('<', "&lt;") }
    }
}

/// Percent escapes of everything but unreserved characters and `/`.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let pair = after.get(..2).filter(|_| *byte == b'%').and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match pair {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    bytes
}
