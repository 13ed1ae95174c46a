//! Secrets: values that print as `***` and can be read at one place only, `expose`.
//! Invariant: neither `Debug`, `Display` nor serde ever gives a secret away.

use std::fmt;

/// A value that is never printed or serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
    /// The value itself: hand it to the provider's client, never to a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let canary = "AKIACANARY0123456789";
        #[derive(Debug)]
        struct Holder {
            #[expect(dead_code, reason = "only printed")]
            key: Option<Secret>,
        }
        let holder = Holder { key: Some(Secret::new(canary)) };
        for text in [format!("{holder:?}"), format!("{holder:#?}"), Secret::new(canary).to_string()] {
            assert!(text.contains("***") || text == "***", "{text}");
            assert!(!text.contains("CANARY"), "{text}");
        }
        assert_eq!(Secret::new(canary).expose(), canary);
    }
}
