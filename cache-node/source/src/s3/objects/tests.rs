use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::http::HttpConnectorFuture;
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::*;

fn context() -> Context {
    Context { op: "read", key: "k".into(), origin: "s3://b/".into(), bucket: "b".into() }
}

/// URL, region and service of a bucket, or the error's text.
async fn place(bucket: &str, region: &str, endpoint: Option<&str>, path_style: bool) -> String {
    let params = Params::builder().bucket(bucket.to_owned()).region(region.to_owned()).force_path_style(path_style);
    match Place::find(params.set_endpoint(endpoint.map(str::to_owned)).build().expect("complete"), &context()).await {
        Ok(Place { url, region, service }) => format!("{url} {region} {service}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_bucket_is_where_the_rules_of_aws_say() {
    for (bucket, region, endpoint, path_style, expected) in [
        ("bucket", "eu-central-1", None, false, "https://bucket.s3.eu-central-1.amazonaws.com eu-central-1 s3"),
        ("buc.ket", "us-west-2", None, true, "https://s3.us-west-2.amazonaws.com/buc.ket us-west-2 s3"),
        ("bucket", "cn-north-1", None, false, "https://bucket.s3.cn-north-1.amazonaws.com.cn cn-north-1 s3"),
        ("bucket", "us-east-1", Some("http://127.0.0.1:9000"), true, "http://127.0.0.1:9000/bucket us-east-1 s3"),
        ("bucket", "us-east-1", Some("https://store.test/below/"), true, "https://store.test/below/bucket us-east-1 s3"),
        ("bucket", "us-east-1", Some("https://store.test"), false, "https://bucket.store.test us-east-1 s3"),
        (
            "arn:aws:s3:us-west-2:123456789012:accesspoint:point",
            "us-west-2",
            None,
            false,
            "https://point-123456789012.s3-accesspoint.us-west-2.amazonaws.com us-west-2 s3",
        ),
    ] {
        assert_eq!(place(bucket, region, endpoint, path_style).await, expected);
    }
    for (bucket, region) in [("bucket--use1-az4--x-s3", "us-east-1"), ("bucket", "no region"), ("arn:aws:s3:::nothing", "us-east-1")] {
        let text = place(bucket, region, None, false).await;
        assert!(text.contains("check the bucket's name, the endpoint and the region"), "{bucket}: {text}");
    }
}

#[derive(Debug)]
struct Nowhere;

impl HttpConnector for Nowhere {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(Err(ConnectorError::io("nowhere".into())))
    }
}

fn objects(url: &str) -> Objects {
    let place = Place { url: url.to_owned(), region: "us-east-1".into(), service: "s3".into() };
    Objects::new(SharedHttpConnector::new(Nowhere), place, None, false)
}

/// The example of AWS' documentation, "Signature Calculations for the Authorization Header: GET Object".
#[test]
fn a_request_is_signed_as_the_documentation_says() {
    let ask = Ask { method: Method::Get, key: "test.txt", if_match: None, extent: Extent::new(0, 10), with_checksums: false };
    let mut request = objects("https://examplebucket.s3.amazonaws.com").request(ask).expect("a request");
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    let identity: Identity = Credentials::new("AKIAIOSFODNN7EXAMPLE", secret, None, None, "test").into();
    let identities =
        IdentityCache::new(aws_credential_types::provider::SharedCredentialsProvider::new(Credentials::new("", "", None, None, "")));
    let signer = Signer { identities, region: "us-east-1".into(), service: "s3".into(), settings: settings() };
    // 2013-05-24T00:00:00Z
    signer.sign(&mut request, &identity, UNIX_EPOCH + Duration::from_secs(1_369_353_600)).expect("signed");
    assert_eq!(
        request.headers().get("authorization"),
        Some(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        )
    );
    assert_eq!(request.headers().get("x-amz-content-sha256"), Some(EMPTY_SHA256));
}

#[test]
fn a_version_that_is_no_header_is_refused_before_anything_is_sent() {
    let ask = Ask { method: Method::Get, key: "a", if_match: Some("\"a\nb\""), extent: None, with_checksums: true };
    assert!(objects("http://h").request(ask).is_err());
}

#[test]
fn a_key_is_sent_as_it_is() {
    for (key, uri) in [
        ("a/b", "http://h/b/a/b"),
        ("/a//b/", "http://h/b//a//b/"),
        ("../a/./b", "http://h/b/../a/./b"),
        ("a b+c?d#e%f", "http://h/b/a%20b%2Bc%3Fd%23e%25f"),
        ("ü", "http://h/b/%C3%BC"),
    ] {
        let ask = Ask { method: Method::Head, key, if_match: None, extent: None, with_checksums: false };
        let request = objects("http://h/b").request(ask).expect("a request");
        assert_eq!((request.method(), request.uri()), ("HEAD", uri));
    }
}
