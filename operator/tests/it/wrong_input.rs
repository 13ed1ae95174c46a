//! What is wrong shows as a condition that says what to do, and recovers when it is mended.

use forebay_api::condition::ConditionType::{Ready, SourceReachable, Stalled};
use forebay_wire::control_service::{Desired, Problem};
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::api_server::{World, until};
use crate::conditions::{listed, problem};
use crate::fake_node::FakeNode;

fn plain() -> Value {
    json!({ "source": "s3://imagenet/train/" })
}

#[tokio::test]
async fn a_missing_secret_and_a_wrong_key_in_it() {
    let Some(world) = World::new("secrets").await else { return };
    world.dataset("a", json!({ "source": "s3://imagenet/", "secretRef": { "name": "s3" } })).await;
    let node = FakeNode::start(&world).await;
    let message = world.condition("a", Stalled, "True", "SecretMissing").await;
    assert!(message.contains("`s3`") && message.contains("AWS_ACCESS_KEY_ID"), "{message}");
    world.secret("s3", json!({ "accessKey": "x" })).await;
    let message = world.condition("a", Stalled, "True", "SecretKeyMissing").await;
    assert!(message.contains("it holds accessKey"), "{message}");
    world.secret("s3", json!({ "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y" })).await;
    node.says(problem(Problem::Denied, "the user may not s3:ListBucket on imagenet"));
    let message = world.condition("a", SourceReachable, "False", "CredentialsRefused").await;
    assert!(message.contains("s3:ListBucket"), "{message}");
    node.says(listed());
    world.condition("a", Ready, "True", "Readable").await;
    node.stop().await;
}

#[tokio::test]
async fn a_policy_that_is_missing_and_one_without_nodes() {
    let Some(world) = World::without_node("policies").await else { return };
    world.dataset("a", json!({ "source": "s3://imagenet/", "policyRef": { "name": "nobody" } })).await;
    let message = world.condition("a", Stalled, "True", "PolicyMissing").await;
    assert!(message.contains("`nobody`"), "{message}");
    world.dataset("b", plain()).await;
    let message = world.condition("b", Ready, "False", "NoNodes").await;
    assert!(message.contains(&world.policy), "{message}");
    world.make_node().await;
    world.condition("b", Ready, "False", "NodesStarting").await;
}

#[tokio::test]
async fn a_claim_that_is_somebody_elses_is_left_alone() {
    let Some(world) = World::new("claims").await else { return };
    let claims: Api<PersistentVolumeClaim> = world.api();
    let claim = json!({
        "metadata": { "name": "a", "labels": { "mine": "yes" } },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } }
    });
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    world.dataset("a", plain()).await;
    let message = world.condition("a", Stalled, "True", "ClaimTaken").await;
    assert!(message.contains("`a`"), "{message}");
    let claim = claims.get("a").await.unwrap();
    assert!(claim.metadata.owner_references.is_none() && claim.spec.unwrap().volume_name.is_none());
    // No controller takes its finalizer off here.
    claims.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } }))).await.unwrap();
    claims.delete("a", &DeleteParams::default()).await.unwrap();
    until("a claim of ours", || async {
        let claim = claims.get_opt("a").await.unwrap()?;
        claim.metadata.owner_references.map(drop)
    })
    .await;
    world.condition("a", Ready, "False", "NodesStarting").await;
}

#[tokio::test]
async fn a_service_account_that_is_missing_and_then_shows_its_token() {
    let Some(world) = World::new("account").await else { return };
    let node = FakeNode::start(&world).await;
    world.dataset("a", json!({ "source": "s3://imagenet/", "serviceAccountName": "reader" })).await;
    let message = world.condition("a", Stalled, "True", "ServiceAccountMissing").await;
    assert!(message.contains("`reader` isn't there in the namespace `account`"), "{message}");
    let role = "arn:aws:iam::123456789012:role/reader";
    let account = json!({ "metadata": { "name": "reader", "annotations": { "eks.amazonaws.com/role-arn": role } } });
    let accounts: Api<ServiceAccount> = world.api();
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let entries = |desired: &Desired| desired.datasets.first()?.references.get("serviceaccount/reader").cloned();
    let told = node.told("the account", |desired| entries(desired).is_some()).await;
    let entries = entries(&told).unwrap().entries;
    assert_eq!(entries["roleARN"], role.as_bytes());
    let review = json!({ "spec": { "token": String::from_utf8(entries["token"].clone()).unwrap(), "audiences": ["sts.amazonaws.com"] } });
    let reviews: Api<TokenReview> = Api::all(world.client.clone());
    let review = reviews.create(&PostParams::default(), &serde_json::from_value(review).unwrap()).await.unwrap().status.unwrap();
    assert_eq!(review.user.unwrap().username.as_deref(), Some("system:serviceaccount:account:reader"));
    let dataset = world.datasets().get("a").await.unwrap();
    assert!(!serde_json::to_string(&dataset).unwrap().contains(std::str::from_utf8(&entries["token"]).unwrap()), "{dataset:?}");
    node.stop().await;
}

#[tokio::test]
async fn sources_that_no_tenant_may_read() {
    let Some(world) = World::new("tenants").await else { return };
    let node = FakeNode::start(&world).await;
    let at = |endpoint: &str| json!({ "source": "s3://imagenet/", "s3": { "endpoint": endpoint } });
    world.dataset("loopback", at("http://127.0.0.1:9000")).await;
    world.dataset("metadata", at("http://169.254.169.254")).await;
    world.dataset("server", at("https://kubernetes.default.svc")).await;
    world.dataset("file", json!({ "source": "file:///etc" })).await;
    for (name, part) in
        [("loopback", "this machine itself"), ("metadata", "link-local"), ("server", "the API server"), ("file", "file:///etc")]
    {
        let message = world.condition(name, Stalled, "True", "SourceNotAllowed").await;
        assert!(message.contains(part), "{name}: {message}");
    }
    world.dataset("good", plain()).await;
    let told = node.told("the good one", |desired| !desired.datasets.is_empty()).await;
    assert!(told.datasets.iter().all(|dataset| dataset.object.contains("\"good\"")), "{told:?}");
    node.stop().await;
}
