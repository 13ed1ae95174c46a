//! The hand-over record: what a daemon must know to go on where the one before it died.
//! Kept in the holder's memory, handed out as JSON. Compatible changes: new fields with a default. Breaking: a new meaning of an old field, which needs
//! a new `VERSION`; a reader refuses a version above its own, and reads every older one.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Version written by this build.
pub const VERSION: u32 = 1;

/// A FUSE node id, as the kernel knows it.
pub type NodeNumber = u64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// The bytes of INIT and of our answer: what was negotiated can't be asked again.
    pub init_request: Vec<u8>,
    pub init_reply: Vec<u8>,
    /// How often the mount was adopted; the first daemon sees 1. Handles given out carry it, so that a release of a handle of an earlier daemon is told apart.
    pub epoch: u64,
    /// OPEN was answered with ENOSYS: for good, the kernel asks no more.
    #[serde(default)]
    pub no_open: bool,
    /// Sequence of the manifest of which the kernel was told all changes; 0: none yet.
    #[serde(default)]
    pub notified: u64,
    /// node id -> backing id of what is passed through.
    #[serde(default)]
    pub backing: HashMap<NodeNumber, u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("read the hand-over record: version {found} is newer than this binary's {VERSION}; start the newer binary again")]
    TooNew { found: u32 },
    #[error("read the hand-over record: {detail}")]
    Malformed { detail: String },
}

impl Record {
    /// A record of a mount that was just made.
    pub fn new(init_request: Vec<u8>, init_reply: Vec<u8>) -> Self {
        Self { version: VERSION, init_request, init_reply, epoch: 0, no_open: false, notified: 0, backing: HashMap::new() }
    }

    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        serde_json::to_vec(self).map_err(|error| RecordError::Malformed { detail: error.to_string() })
    }

    /// Unknown fields are ignored, missing ones get their default.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let malformed = |error: serde_json::Error| RecordError::Malformed { detail: error.to_string() };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.version > VERSION {
            return Err(RecordError::TooNew { found: head.version });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let mut record = Record::new(vec![1, 2], vec![3]);
        record.backing.insert(u64::MAX - 1, 7);
        let bytes = record.encode().expect("plain data");
        assert_eq!(Record::decode(&bytes).expect("own bytes"), record);
    }

    #[test]
    fn an_older_record_without_later_fields_reads() {
        let bytes = br#"{"version":1,"init_request":[1],"init_reply":[2],"epoch":3,"a_field_of_tomorrow":true}"#;
        let record = Record::decode(bytes).expect("version 1");
        assert_eq!((record.epoch, record.no_open, record.backing.len()), (3, false, 0));
    }

    #[test]
    fn a_newer_record_is_refused() {
        let bytes = br#"{"version":2,"anything":"else"}"#;
        assert!(matches!(Record::decode(bytes), Err(RecordError::TooNew { found: 2 })));
    }
}
