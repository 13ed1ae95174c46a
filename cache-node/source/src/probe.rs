//! What only fuzz targets and their smoke tests call.
//! Knows which private readers are worth feeding with noise. Not part of the interface.

use crate::s3;

/// Reads `body` as an answer to ListObjectsV2 below `prefix`; the bytes of its keys, versions and folders, and one for
/// each, if it is one: never more than `body` has.
pub fn read_listing(body: &[u8], prefix: &[u8]) -> Option<usize> {
    s3::read_listing(body, prefix)
}
