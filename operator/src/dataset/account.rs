//! Service accounts that Datasets name: each has a token that cloud providers trust, and maybe an annotation with a role.
//! Knows the API server's TokenRequest. Does not know what a provider does with a token.
//! Invariant: a token is for providers, never for the API server; it is in memory alone, and in no message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use forebay_wire::dataset_spec::file::DatasetSpecFile;
use forebay_wire::secret::{ROLE_ENTRY, TOKEN_ENTRY};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use super::reference::{Entries, Missing};
use crate::context::Context;
use crate::error::{During, Error};

/// What AWS' STS asks for, and what others that speak as it does take.
const AUDIENCE: &str = "sts.amazonaws.com";
/// Renewed at half of it, so that a provider's own keys, which live for an hour, can always be asked for again.
const LIFE: Duration = Duration::from_secs(2 * 3600);
/// As EKS has it, so that accounts that pods use there need nothing more.
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

/// By namespace and account. Guards one table; never held across `.await`. Not `Debug`: it holds secrets.
#[derive(Default)]
pub struct Tokens(Mutex<BTreeMap<(String, String), Token>>);

struct Token {
    text: String,
    /// Of the account: one that was made again under its name is another.
    uid: String,
    since: Instant,
}

/// The accounts that `spec` names.
pub fn of(spec: &DatasetSpecFile) -> BTreeSet<&str> {
    let each = spec.sources.iter().flatten().filter_map(|source| source.service_account_name.as_deref());
    spec.service_account_name.as_deref().into_iter().chain(each).collect()
}

/// What a node needs to read as the account; or why that can't be had.
pub async fn entries(ctx: &Context, namespace: &str, account: &str) -> Result<Result<Entries, Missing>, Error> {
    let api: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let found = match api.get_opt(account).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Err(missing(account, namespace))),
        Err(error) if is_forbidden(&error) => return Ok(Err(denied(account, namespace))),
        Err(error) => return Err(error).during(|| format!("read the service account {account}")),
    };
    let uid = found.uid().unwrap_or_default();
    let token = match ctx.tokens.get(namespace, account, &uid) {
        Some(token) => token,
        None => match request(&api, account).await {
            Ok(text) => ctx.tokens.keep(namespace, account, Token { text, uid, since: Instant::now() }),
            Err(error) if is_forbidden(&error) => return Ok(Err(denied(account, namespace))),
            Err(error) => return Err(error).during(|| format!("ask for a token of the service account {account}")),
        },
    };
    let role = found.annotations().get(ROLE_ANNOTATION).map(|role| (ROLE_ENTRY.to_owned(), role.trim().into()));
    Ok(Ok(role.into_iter().chain([(TOKEN_ENTRY.to_owned(), token.into_bytes())]).collect()))
}

async fn request(api: &Api<ServiceAccount>, account: &str) -> kube::Result<String> {
    let spec = json!({ "spec": { "audiences": [AUDIENCE], "expirationSeconds": LIFE.as_secs() } });
    let request: TokenRequest = serde_json::from_value(spec).map_err(kube::Error::SerdeError)?;
    let made = api.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(made.status.and_then(|status| status.token).unwrap_or_default())
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

fn missing(account: &str, namespace: &str) -> Missing {
    let message = format!("the service account `{account}` isn't there in the namespace `{namespace}`: create it, or name another one");
    Missing { reason: "ServiceAccountMissing", message }
}

fn denied(account: &str, namespace: &str) -> Missing {
    let message = format!(
        "Forebay may not ask for a token of the service account `{account}` in the namespace `{namespace}`: have the chart installed with \
         serviceAccounts.enabled=true, or name a Secret in `secretRef` instead"
    );
    Missing { reason: "ServiceAccountDenied", message }
}

impl Tokens {
    /// One that is young enough.
    fn get(&self, namespace: &str, account: &str, uid: &str) -> Option<String> {
        let tokens = self.0.lock();
        let token = tokens.get(&(namespace.to_owned(), account.to_owned()))?;
        (token.uid == uid && token.since.elapsed() < LIFE / 2).then(|| token.text.clone())
    }

    fn keep(&self, namespace: &str, account: &str, token: Token) -> String {
        let text = token.text.clone();
        let mut tokens = self.0.lock();
        // What no Dataset names any more isn't renewed, and goes when it is over.
        tokens.retain(|_, token| token.since.elapsed() < LIFE);
        tokens.insert((namespace.to_owned(), account.to_owned()), token);
        text
    }
}
