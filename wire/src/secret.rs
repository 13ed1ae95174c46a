//! Secrets: values that print as `***` and can be read at one place only, `expose`.
//! Invariant: neither `Debug`, `Display` nor serde ever gives a secret away.

use std::collections::BTreeMap;
use std::fmt;

use crate::reach::Reach;

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

/// Who a source's requests are signed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// What the provider's default chain finds: environment, files in the home folder, the machine's role.
    Ambient,
    /// Requests aren't signed.
    Anonymous,
    /// Keys under the provider's own names (`AWS_ACCESS_KEY_ID`, ...), as a Kubernetes Secret holds them.
    Keys(BTreeMap<String, Secret>),
    /// Keys that the provider gives, for an hour or so, to who shows a token that it trusts.
    Token(IdentityToken),
}

/// What AssumeRoleWithWebIdentity of AWS' STS takes, and what others do as it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityToken {
    /// A JSON web token.
    pub token: Secret,
    /// `None`: the server tells the role from the token, as servers of one's own may.
    pub role_arn: Option<String>,
}

/// What a source needs besides its spec: resolved from the references in it, in memory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAccess {
    pub credentials: Credentials,
    /// Certificates in PEM that are trusted beside the system's; public, yet from the same place.
    pub ca_bundle: Option<String>,
    pub reach: Reach,
}

/// Under which name what belongs to a service account is handed over: no Secret's name has a slash.
pub fn account_reference(account: &str) -> String {
    format!("serviceaccount/{account}")
}

/// Its token.
pub const TOKEN_ENTRY: &str = "token";
/// The role that its annotation names, if it does.
pub const ROLE_ENTRY: &str = "roleARN";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let canary = "AKIACANARY0123456789";
        let keys = BTreeMap::from([("AWS_ACCESS_KEY_ID".to_owned(), Secret::new(canary))]);
        let access = SourceAccess { credentials: Credentials::Keys(keys), ca_bundle: None, reach: Reach::Anywhere };
        for text in [format!("{access:?}"), format!("{access:#?}"), Secret::new(canary).to_string()] {
            assert!(text.contains("***") || text == "***", "{text}");
            assert!(!text.contains("CANARY"), "{text}");
        }
        assert_eq!(Secret::new(canary).expose(), canary);
    }
}
