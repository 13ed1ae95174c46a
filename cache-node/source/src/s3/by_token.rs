//! Keys for a token: STS' AssumeRoleWithWebIdentity, which takes a token that its administrator trusts and needs no signature.
//! Knows one request. Does not know where the token comes from, or when it is replaced: with another token comes another of these.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_sts::Client;
use forebay_wire::secret::IdentityToken;

use super::client::SESSION;

/// In what is said when STS refuses.
pub(super) const NO_KEYS: &str = "STS gives no keys for the token of the service account";

#[derive(Debug, thiserror::Error)]
#[error("{NO_KEYS}; {cure}")]
struct NoKeys {
    cure: String,
    #[source]
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Asks each time: the SDK keeps an answer until shortly before it expires. Prints no token.
#[derive(Debug)]
pub(super) struct ByToken {
    client: Client,
    identity: IdentityToken,
}

impl ByToken {
    pub(super) fn new(sdk: &SdkConfig, identity: IdentityToken) -> Self {
        Self { client: Client::new(sdk), identity }
    }

    async fn assume(&self) -> provider::Result {
        let IdentityToken { token, role_arn } = &self.identity;
        let request = self.client.assume_role_with_web_identity().web_identity_token(token.expose()).role_session_name(SESSION);
        let answer = request.set_role_arn(role_arn.clone()).send().await.map_err(|cause| {
            let cure = match role_arn {
                Some(role) => format!("let the role {role} trust the cluster's issuer and this service account"),
                None => "no role is named, and most servers want one: the account's annotation names it".to_owned(),
            };
            CredentialsError::provider_error(NoKeys { cure, cause: Box::new(cause) })
        })?;
        let given = answer.credentials.ok_or_else(|| CredentialsError::invalid_configuration("STS answered without credentials"))?;
        let seconds = u64::try_from(given.expiration.secs()).unwrap_or(0);
        let until: SystemTime = UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(Credentials::new(given.access_key_id, given.secret_access_key, Some(given.session_token), Some(until), "token"))
    }
}

impl ProvideCredentials for ByToken {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
