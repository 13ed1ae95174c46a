//! Requests that are built and signed here: by which credentials, for which region, for which key, and what their answers are held to.
//! Signatures are checked by the real server, the rest is seen in what a recorder got.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use forebay_source::s3::S3;
use forebay_source::{Key, Object, Source, SourceError, Version};
use forebay_wire::dataset_spec::S3Location;
use forebay_wire::secret::{Credentials, Secret, SourceAccess};
use parking_lot::Mutex;

use crate::lying_server::{Lie, LyingServer, etag};
use crate::options::{ROLE, region_of, signed_by};
use crate::recorder::{Answer, OBJECT, Recorder, Request};
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY, access, location};
use crate::source_suite::{key, read, request};

/// In no text that anybody sees.
const CANARY: &str = "canary-of-the-tests";

fn object(name: &str) -> Object {
    let version = Version(Bytes::from_static(b"one"));
    Object { key: key(name), size: OBJECT.len() as u64, modified: std::time::UNIX_EPOCH, version }
}

fn with_token(secret: &str, token: &str) -> SourceAccess {
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_SESSION_TOKEN", token)];
    let keys = keys.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect();
    SourceAccess { credentials: Credentials::Keys(keys), ..access(secret) }
}

async fn read_whole(source: &S3, object: &Object) -> Result<Vec<u8>, SourceError> {
    read(source, object, 0, object.size).await
}

#[tokio::test]
async fn keys_of_all_characters_are_signed_rightly() {
    let server = S3Server::start("bucket").await;
    let printable: String = (' '..='~').filter(|c| *c != '/').collect();
    let names =
        [printable.as_str(), "a/b c/+%2F%/x", "~tilde-_.", "ü/日本/🦀", "trailing ", "=&=", "%", "a\u{7f}b", "tab\tin", "\u{a0}\u{301}"];
    names.iter().for_each(|name| server.put("bucket", name, name.as_bytes()));
    // Signed with a session token, too, which the server has in the signature.
    for access in [access(SECRET_KEY), with_token(SECRET_KEY, "a+token/with==signs")] {
        let source = S3::new(&location(server.endpoint(), "bucket", ""), &access).unwrap();
        for name in names {
            let object = source.head(&key(name)).await.unwrap();
            assert_eq!(read_whole(&source, &object).await.unwrap(), name.as_bytes());
            assert_eq!(read(&source, &object, 0, 1).await.unwrap(), name.as_bytes()[..1]);
        }
    }
    // That server does look: with another secret each of them is refused.
    let source = S3::new(&location(server.endpoint(), "bucket", ""), &access("another")).unwrap();
    for name in names {
        let error = source.head(&key(name)).await.unwrap_err();
        assert!(matches!(&error, SourceError::Denied { .. }), "{error}");
        let error = read_whole(&source, &object(name)).await.unwrap_err();
        assert!(matches!(&error, SourceError::Denied { cure, .. } if cure.contains("secret key")), "{error}");
    }
}

#[tokio::test]
async fn a_session_token_is_sent_and_signed() {
    let server = Recorder::start(|_| None);
    let source = S3::new(&location(server.endpoint(), "bucket", ""), &with_token(SECRET_KEY, "the-token")).unwrap();
    read_whole(&source, &object("a")).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].header("x-amz-security-token"), Some("the-token"));
    let signed = requests[0].header("authorization").unwrap();
    for header in ["host", "if-match", "x-amz-checksum-mode", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"] {
        assert!(signed.contains(header), "{header} is not signed: {signed}");
    }
}

#[tokio::test]
async fn a_read_finds_the_right_region_once() {
    let moved = |request: &Request| -> Option<Answer> {
        let fields = "x-amz-bucket-region: eu-central-1\r\nLocation: http://localhost:1/\r\n";
        let body =
            if request.head.starts_with("HEAD") { "" } else { "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>" };
        (region_of(request) != "eu-central-1").then(|| ("301 Moved Permanently", fields.into(), body.into()))
    };
    let server = Recorder::start(moved);
    let source = S3::new(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
    assert_eq!(read_whole(&source, &object("a")).await.unwrap(), OBJECT);
    assert_eq!(read_whole(&source, &object("a")).await.unwrap(), OBJECT);
    source.list(&request("")).await.unwrap();
    let regions: Vec<_> = server.requests().iter().map(|request| region_of(request).to_owned()).collect();
    assert_eq!(regions, ["us-east-1", "eu-central-1", "eu-central-1", "eu-central-1"]);

    let never_there = Recorder::start(|_| Some(("400 Bad Request", "x-amz-bucket-region: eu-north-1\r\n".into(), Vec::new())));
    let source = S3::new(&location(never_there.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
    read_whole(&source, &object("a")).await.unwrap_err();
    assert_eq!(never_there.requests().len(), 2, "it goes to another region once");
}

/// Credentials that say they expired long ago: whoever asks next, the SDK for a listing or we for an object, gets new ones.
#[tokio::test]
async fn what_has_expired_signs_nothing_more() {
    let count = AtomicU32::new(0);
    let server = Recorder::start(move |request| {
        request.body.contains("Action=AssumeRole&").then(|| {
            let number = count.fetch_add(1, Relaxed);
            let body = format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
                <AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
                <Expiration>1999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            );
            ("200 OK", "Content-Type: text/xml\r\n".into(), body.into())
        })
    });
    let place = S3Location { role_arn: Some(ROLE.into()), ..location(server.endpoint(), "bucket", "") };
    let source = S3::new(&place, &access(SECRET_KEY)).unwrap();
    source.list(&request("")).await.unwrap();
    source.head(&key("a")).await.unwrap();
    read_whole(&source, &object("a")).await.unwrap();
    let requests = server.requests();
    let signers: Vec<_> = requests.iter().filter(|request| !request.body.contains("Action=")).map(signed_by).collect();
    assert_eq!(signers, ["ASIA0", "ASIA1", "ASIA2"]);
}

#[tokio::test]
async fn each_checksum_that_comes_with_a_body_is_compared() {
    // Of `five!`.
    let sums = [
        ("crc64nvme", "0g8hySYasgQ="),
        ("crc32c", "Jj5rNg=="),
        ("crc32", "kuFWJw=="),
        ("sha1", "yxLq0bvvFRri4K1L8V30dDuSHGw="),
        ("sha256", "XiYX8oxrGEUMycUuLMyCJBpL81thTkx1Je/OR3ulWQc="),
    ];
    for (name, sum) in sums {
        for (body, range) in [(OBJECT, None), (b"fiue!".as_slice(), None), (OBJECT, Some("0-4/9")), (b"fiue!".as_slice(), Some("0-4/9"))] {
            let server = Recorder::start(move |_| {
                let range = range.map(|range| format!("Content-Range: bytes {range}\r\n")).unwrap_or_default();
                Some(("200 OK", format!("ETag: \"one\"\r\nx-amz-checksum-{name}: {sum}\r\n{range}"), body.to_vec()))
            });
            let source = S3::new(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
            let asked = Object { size: if range.is_some() { 9 } else { 5 }, ..object("a") };
            let got = read(&source, &asked, 0, 5).await;
            match body == OBJECT {
                true => assert_eq!(got.unwrap(), OBJECT, "{name}"),
                false => {
                    let error = got.unwrap_err();
                    assert!(
                        matches!(&error, SourceError::Corrupt { detail, .. } if detail.contains("checksum mismatch")),
                        "{name}: {error}"
                    );
                }
            }
            let requests = server.requests();
            assert_eq!(requests[0].header("x-amz-checksum-mode"), Some("ENABLED"));
        }
    }
}

#[tokio::test]
async fn a_body_that_is_cut_or_too_long_is_an_error() {
    let bytes: Vec<u8> = (0..300_000u32).map(|index| (index % 251) as u8).collect();
    for (lie, expected) in [
        (Lie::BreakAfter(100), "Unavailable"),
        (Lie::Hangup, "Unavailable"),
        (Lie::Garbage, "Unavailable"),
        (Lie::ShortAnnounced, "Corrupt"),
        (Lie::LongAnnounced, "Corrupt"),
        (Lie::FlippedByte, "Corrupt"),
        (Lie::NoEtag, "Corrupt"),
        (Lie::OtherVersion, "Replaced"),
        (Lie::OkWithError, "Corrupt"),
        (Lie::SlowDown, "Throttled"),
        (Lie::InternalError, "Unavailable"),
    ] {
        let server = LyingServer::start([("a".to_owned(), bytes.clone())].into(), move |_| lie).await;
        let source = S3::new(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
        let asked = Object { size: bytes.len() as u64, version: Version(Bytes::from(etag(&bytes))), ..object("a") };
        let text = format!("{:?}", read_whole(&source, &asked).await.map(|bytes| bytes.len()).unwrap_err());
        assert!(text.starts_with(expected), "{lie:?}: {text}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_its_code_its_message_and_its_request() {
    let server = Recorder::start(|request| {
        let body =
            "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code><Message>not for you</Message><RequestId>R1</RequestId></Error>";
        let body = if request.head.starts_with("HEAD") { Vec::new() } else { body.into() };
        Some(("403 Forbidden", "x-amz-request-id: R1\r\n".into(), body))
    });
    let source = S3::new(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
    let read = read_whole(&source, &object("a")).await.unwrap_err().to_string();
    for part in ["read a from s3://bucket/", "s3:GetObject", "HTTP 403", "AccessDenied", "not for you", "request R1"] {
        assert!(read.contains(part), "{part}: {read}");
    }
    let head = source.head(&key("a")).await.unwrap_err().to_string();
    for part in ["head a from s3://bucket/", "s3:GetObject", "HTTP 403", "request R1"] {
        assert!(head.contains(part), "{part}: {head}");
    }
    let proxy = Recorder::start(|_| Some(("502 Bad Gateway", String::new(), b"<html><body>no</body></html>".to_vec())));
    let source = S3::new(&location(proxy.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
    let error = read_whole(&source, &object("a")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Unavailable { detail, .. } if detail.contains("502")), "{error}");
}

/// Where a log of everything goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_and_no_error_shows_a_credential() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // A server on threads of its own: what it logs doesn't count.
    let answers = Recorder::start(|_| None);
    let refuses =
        Recorder::start(|_| Some(("403 Forbidden", String::new(), b"<Error><Code>SignatureDoesNotMatch</Code></Error>".to_vec())));
    for server in [answers, refuses] {
        let source = S3::new(&location(server.endpoint(), "bucket", ""), &with_token(CANARY, &format!("token-{CANARY}"))).unwrap();
        let listed = source.list(&request("")).await.map(|_| ());
        let headed = source.head(&Key(Bytes::from_static(b"a"))).await.map(|_| ());
        let given = read_whole(&source, &object("a")).await.map(|_| ());
        let outcome = format!("{listed:?} {headed:?} {given:?}");
        assert!(!outcome.contains(CANARY), "{outcome}");
        assert!(server.requests().iter().all(|request| request.header("x-amz-security-token").is_some_and(|token| token.contains(CANARY))));
    }
    let log = String::from_utf8_lossy(&log.0.lock()).into_owned();
    // The signer tells what it signs at that level: a log without it would show nothing.
    assert!(log.contains("signing request"), "{log}");
    let shown: Vec<_> = log.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
}
