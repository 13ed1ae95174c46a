use aws_sdk_s3::primitives::DateTime;

use super::error::{Context, Refusal};
use super::*;

#[track_caller]
fn check(op: &'static str, status: u16, code: &str, message: &str, expected: &str) {
    let context = Context { op, key: "k".into(), origin: "s3://b/".into(), bucket: "b".into() };
    let refusal = Refusal { status, code: code.into(), message: message.into(), ..Default::default() };
    let text = format!("{:?}", context.refused(&refusal));
    let (variant, cure) = expected.split_once(' ').unwrap_or((expected, ""));
    assert!(text.starts_with(variant) && text.contains(cure), "{status} {code}: {text}");
}

#[test]
fn every_refusal_is_told_by_name_and_with_its_cure() {
    check("read", 404, "NoSuchKey", "", "NotFound");
    check("head", 404, "", "", "NotFound");
    check("list", 404, "NoSuchBucket", "", "Missing no bucket b");
    check("read", 412, "PreconditionFailed", "", "Replaced");
    check("read", 403, "InvalidObjectState", "", "Archived RestoreObject");
    check("read", 403, "AccessDenied", "Access Denied", "Denied s3:GetObject");
    check("list", 403, "AccessDenied", "Access Denied", "Denied s3:ListBucket");
    check("head", 403, "", "", "Denied s3:GetObject");
    check("read", 403, "AccessDenied", "not authorized to perform: kms:Decrypt", "Denied kms:Decrypt");
    check("read", 400, "KMS.DisabledException", "", "Denied kms:Decrypt");
    check("read", 403, "SignatureDoesNotMatch", "", "Denied secret key");
    check("read", 403, "InvalidAccessKeyId", "", "Denied access key");
    check("read", 400, "ExpiredToken", "", "Denied expired");
    check("read", 403, "RequestTimeTooSkewed", "", "Denied clock");
    check("read", 301, "PermanentRedirect", "", "Permanent s3.region");
    check("read", 307, "TemporaryRedirect", "", "Unavailable not followed");
    check("read", 503, "SlowDown", "", "Throttled");
    check("read", 429, "", "", "Throttled");
    check("read", 500, "InternalError", "", "Unavailable");
    check("read", 400, "RequestTimeout", "", "Unavailable");
    check("read", 416, "InvalidRange", "", "Corrupt");
    check("read", 400, "InvalidRequest", "no", "Permanent InvalidRequest");
}

#[test]
fn only_the_range_that_was_asked_for_is_taken() {
    let extent = Extent::new(10, 20).expect("not empty");
    for (text, expected) in [
        ("bytes 10-19/100", true),
        ("bytes 10-19/*", true),
        ("bytes 10-20/100", false),
        ("bytes 9-19/100", false),
        ("bytes 0-9/100", false),
        ("10-19/100", false),
        ("bytes 10-19", false),
        ("bytes */100", false),
    ] {
        assert_eq!(is_range(text, extent), expected, "{text}");
    }
}

#[test]
fn a_version_without_etag_is_time_and_size() {
    let version = version::from_time(std::time::UNIX_EPOCH + std::time::Duration::from_millis(5500), 9);
    let asked = version::Asked::new(&version).expect("ours");
    assert_eq!(asked.if_match(), None);
    assert_eq!(asked.is_met(Some("x"), Some(&DateTime::from_secs(5)), Some(9)), Some(true));
    assert_eq!(asked.is_met(None, Some(&DateTime::from_secs(6)), Some(9)), Some(false));
    assert_eq!(asked.is_met(None, Some(&DateTime::from_secs(5)), Some(8)), Some(false));
    assert_eq!(asked.is_met(None, None, Some(9)), None);
    let etag = version::from_etag("\"abc-2\"");
    let asked = version::Asked::new(&etag).expect("an etag");
    assert_eq!(asked.if_match().as_deref(), Some("\"abc-2\""));
    assert_eq!((asked.is_met(Some("\"abc-2\""), None, None), asked.is_met(None, None, None)), (Some(true), None));
}
