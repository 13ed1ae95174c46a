//! An answer to ListObjectsV2 of any bytes gives keys in order, no longer than the answer, or an error.

use forebay_source::probe::read_listing;

pub fn check(bytes: &[u8]) {
    for prefix in [&b""[..], b"a/"] {
        assert!(read_listing(bytes, prefix).is_none_or(|told| told <= bytes.len()));
    }
}
