//! An answer to ListObjectsV2 of any bytes gives keys or an error. The reader is taken in as a file: its crate would bring the whole SDK.
#![no_main]
#![allow(dead_code, unreachable_pub)]

use std::time::SystemTime;

use bytes::Bytes;

#[path = "../../cache-node/source/src/s3/list_xml.rs"]
mod list_xml;

#[derive(Debug, PartialEq)]
pub struct Key(pub Bytes);
#[derive(Debug, PartialEq)]
pub struct Version(pub Bytes);
#[derive(Debug, PartialEq)]
pub struct Object {
    pub key: Key,
    pub size: u64,
    pub modified: SystemTime,
    pub version: Version,
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for prefix in [&b""[..], b"a/"] {
        if let Ok(answer) = list_xml::parse(bytes, prefix) {
            // A key never takes more bytes than the answer had for it.
            assert!(answer.objects.iter().map(|object| object.key.0.len() + object.version.0.len()).sum::<usize>() <= bytes.len());
        }
    }
});
