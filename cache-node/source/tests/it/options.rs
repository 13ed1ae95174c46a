//! What a Dataset's `s3` says is seen in the requests that a server gets: trust, addressing, region, payer, credentials, role.
//! Whatever depends on the environment or on names of hosts runs in a process of its own.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use forebay_source::s3::S3;
use forebay_source::{Key, Object, Source, SourceError, Version};
use forebay_wire::dataset_spec::{Addressing, S3Location};
use forebay_wire::reach::Reach;
use forebay_wire::secret::{Credentials, IdentityToken, Secret, SourceAccess};

use crate::recorder::{AUTHORITY, Answer, OBJECT, Recorder, Request};
use crate::s3_server::{ACCESS_KEY, SECRET_KEY, access, location};
use crate::source_suite::{read, request};

fn object() -> Object {
    let (key, version) = (Key(Bytes::from_static(b"a")), Version(Bytes::from_static(b"one")));
    Object { key, size: OBJECT.len() as u64, modified: std::time::UNIX_EPOCH, version }
}

/// Lists, heads and reads: every kind of request that a source sends.
async fn ask(location: &S3Location, access: &SourceAccess) -> Result<(), SourceError> {
    let source = S3::new(location, access)?;
    source.list(&request("")).await?;
    assert_eq!(source.head(&object().key).await?.size, OBJECT.len() as u64);
    assert_eq!(read(&source, &object(), 0, OBJECT.len() as u64).await?, OBJECT);
    assert_eq!(source.checksum(&object().key, &object().version).await?, None);
    Ok(())
}

fn signed_by(request: &Request) -> &str {
    let text = request.header("authorization").unwrap_or_default();
    text.split_once("Credential=").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default())
}

fn region_of(request: &Request) -> &str {
    let text = request.header("authorization").unwrap_or_default();
    text.split_once("Credential=").map_or("", |(_, rest)| rest.split('/').nth(2).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_only_when_it_is_named() {
    let server = Recorder::start_tls();
    let place = location(server.endpoint(), "bucket", "");
    let error = ask(&place, &access(SECRET_KEY)).await.unwrap_err();
    assert!(matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("caBundleRef")), "{error}");
    assert!(server.requests().is_empty(), "a request went to a server that isn't trusted");
    ask(&place, &SourceAccess { ca_bundle: Some(AUTHORITY.to_owned()), ..access(SECRET_KEY) }).await.unwrap();
    assert_eq!(server.requests().len(), 4);
    // Under another name than the certificate's it is a stranger again.
    let place = location(server.endpoint().replace("localhost", "127.0.0.1"), "bucket", "");
    let error = ask(&place, &SourceAccess { ca_bundle: Some(AUTHORITY.to_owned()), ..access(SECRET_KEY) }).await.unwrap_err();
    assert!(matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("not valid for name")), "{error}");
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_source_asks_neither_this_machine_nor_the_api_server() {
    let server = Recorder::start(|_| None);
    let port = server.endpoint().rsplit(':').next().unwrap().to_owned();
    let guarded = |api_server: &[&str]| {
        let api_server = api_server.iter().map(|address| address.parse().unwrap()).collect();
        SourceAccess { reach: Reach::Guarded { api_server }, ..access(SECRET_KEY) }
    };
    // A name that leads here, and every spelling of an address that nobody has to look up.
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let place = location(format!("http://{host}:{port}"), "bucket", "");
        let error = ask(&place, &guarded(&[])).await.unwrap_err();
        let is_told = matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("this machine itself") && detail.contains("allowedSources"));
        assert!(is_told, "{host}: {error:?}");
    }
    let place = location("http://10.96.0.1:443".to_owned(), "bucket", "");
    let error = ask(&place, &guarded(&["10.96.0.1"])).await.unwrap_err();
    assert!(matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("the API server")), "{error:?}");
    assert!(server.requests().is_empty(), "a request went where none may go");
    // The same name where its endpoint is trusted.
    ask(&location(format!("http://localhost:{port}"), "bucket", ""), &access(SECRET_KEY)).await.unwrap();
    assert!(!server.requests().is_empty());
}

#[test]
fn a_bundle_without_a_certificate_is_refused() {
    let access = SourceAccess { ca_bundle: Some("nothing".into()), ..access(SECRET_KEY) };
    let error = S3::new(&location("https://localhost:1".into(), "bucket", ""), &access).err().unwrap();
    assert!(matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("BEGIN CERTIFICATE")), "{error}");
}

#[tokio::test]
async fn a_region_that_was_not_set_is_found_out() {
    let malformed = |request: &Request| -> Option<Answer> {
        (region_of(request) != "eu-central-1").then(|| {
            let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong</Message><Region>eu-central-1</Region></Error>";
            ("400 Bad Request", String::new(), body.into())
        })
    };
    let moved = |request: &Request| -> Option<Answer> {
        (region_of(request) != "eu-central-1").then(|| {
            let body = "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>";
            ("301 Moved Permanently", "x-amz-bucket-region: eu-central-1\r\nLocation: http://localhost:1/\r\n".into(), body.into())
        })
    };
    for server in [Recorder::start(malformed), Recorder::start(moved)] {
        ask(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).await.unwrap();
        let regions: Vec<_> = server.requests().iter().map(|request| region_of(request).to_owned()).collect();
        assert_eq!(regions, ["us-east-1", "eu-central-1", "eu-central-1", "eu-central-1", "eu-central-1"]);
        // One that is set is not overruled: the user is told.
        let place = S3Location { region: Some("us-west-2".into()), ..location(server.endpoint(), "bucket", "") };
        let error = ask(&place, &access(SECRET_KEY)).await.unwrap_err();
        assert!(matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("eu-central-1")), "{error}");
    }
}

#[tokio::test]
async fn a_requester_that_pays_says_so_in_every_request() {
    for pays in [true, false] {
        let server = Recorder::start(|_| None);
        let place = S3Location { requester_pays: pays, ..location(server.endpoint(), "bucket", "") };
        ask(&place, &access(SECRET_KEY)).await.unwrap();
        for request in server.requests() {
            assert_eq!(request.header("x-amz-request-payer"), pays.then_some("requester"), "{}", request.line());
        }
        assert_eq!(server.requests().len(), 4);
    }
}

#[tokio::test]
async fn who_reads_anonymously_signs_nothing() {
    let server = Recorder::start(|_| None);
    let place = S3Location { anonymous: true, ..location(server.endpoint(), "bucket", "") };
    // Also with credentials at hand.
    ask(&place, &access(SECRET_KEY)).await.unwrap();
    assert_eq!(server.requests().len(), 4);
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));
    ask(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).await.unwrap();
    assert!(server.requests()[4..].iter().all(|request| signed_by(request) == ACCESS_KEY));
}

const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

/// No real STS: the recorder answers for it, and says so in its `Server` header. `action` is what it is asked for.
fn security_token_service(action: &'static str) -> Recorder {
    Recorder::start(move |request| {
        request.body.contains(&format!("Action={action}&")).then(|| {
            let body = format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser>\
                <AssumedRoleId>AROA:forebay</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/reader/forebay</Arn>\
                </AssumedRoleUser><Credentials><AccessKeyId>ASIATEMPORARY</AccessKeyId><SecretAccessKey>temporary</SecretAccessKey>\
                <SessionToken>token-of-the-role</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
                </{action}Result></{action}Response>"
            );
            ("200 OK", "Content-Type: text/xml\r\n".into(), body.into())
        })
    })
}

#[tokio::test]
async fn a_token_is_shown_unsigned_and_the_keys_that_it_brings_are_used() {
    for role_arn in [Some(ROLE.to_owned()), None] {
        let server = security_token_service("AssumeRoleWithWebIdentity");
        let identity = IdentityToken { token: Secret::new("a.b.c"), role_arn: role_arn.clone() };
        let access = SourceAccess { credentials: Credentials::Token(identity), ..access(SECRET_KEY) };
        ask(&location(server.endpoint(), "bucket", ""), &access).await.unwrap();
        let requests = server.requests();
        let (assume, asked): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.body.contains("Action="));
        assert_eq!((assume.len(), asked.len()), (1, 4));
        assert!(assume[0].body.contains("WebIdentityToken=a.b.c"), "{}", assume[0].body);
        assert_eq!(assume[0].body.contains("role%2Freader"), role_arn.is_some());
        assert!(assume[0].header("authorization").is_none());
        assert!(asked.iter().all(|request| signed_by(request) == "ASIATEMPORARY"));
    }
    let refuses = Recorder::start(|request| {
        let body = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>";
        request.body.contains("Action=").then(|| ("400 Bad Request", "Content-Type: text/xml\r\n".into(), body.into()))
    });
    let identity = IdentityToken { token: Secret::new("canary.b.c"), role_arn: None };
    let access = SourceAccess { credentials: Credentials::Token(identity), ..access(SECRET_KEY) };
    let error = ask(&location(refuses.endpoint(), "bucket", ""), &access).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("InvalidIdentityToken") && !text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_role_is_assumed_and_its_keys_are_used() {
    let server = security_token_service("AssumeRole");
    let place = S3Location { role_arn: Some(ROLE.into()), ..location(server.endpoint(), "bucket", "") };
    ask(&place, &access(SECRET_KEY)).await.unwrap();
    let requests = server.requests();
    let (assume, asked): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.body.contains("Action=AssumeRole"));
    assert_eq!((assume.len(), asked.len()), (1, 4));
    assert!(assume[0].body.contains("role%2Freader"), "{}", assume[0].body);
    assert_eq!(signed_by(assume[0]), ACCESS_KEY);
    for request in asked {
        assert_eq!(signed_by(request), "ASIATEMPORARY");
        assert_eq!(request.header("x-amz-security-token"), Some("token-of-the-role"));
    }
}

const ENDPOINT: &str = "FOREBAY_TEST_ENDPOINT";

/// This binary again, as `asks_with_what_it_finds`, in an environment that holds nothing but what is given.
fn child(wrapper: Option<&str>, endpoint: &str, home: &Path) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        Some(script) => {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["options::asks_with_what_it_finds", "--exact", "--ignored", "--nocapture"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true").env(ENDPOINT, endpoint);
    command
}

#[tokio::test]
#[ignore = "the process that other tests start"]
async fn asks_with_what_it_finds() {
    let endpoint = std::env::var(ENDPOINT).unwrap();
    let addressing = if std::env::var_os("FOREBAY_TEST_VIRTUAL").is_some() { Addressing::VirtualHost } else { Addressing::Auto };
    let place = S3Location { addressing, ..location(endpoint, "bucket", "") };
    ask(&place, &SourceAccess { credentials: Credentials::Ambient, ca_bundle: None, reach: Reach::Anywhere }).await.unwrap();
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn keys_of_the_environment_and_of_the_shared_file_are_found() {
    let home = tempfile::tempdir().unwrap();
    let server = Recorder::start(|_| None);
    let mut from_environment = child(None, &server.endpoint(), home.path());
    from_environment.env("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT").env("AWS_SECRET_ACCESS_KEY", "s");
    from_environment.env("AWS_SESSION_TOKEN", "token-of-the-environment");
    run(from_environment);
    let requests = server.requests();
    assert!(requests.len() == 4 && requests.iter().all(|request| signed_by(request) == "AKIAENVIRONMENT"));
    assert!(requests.iter().all(|request| request.header("x-amz-security-token") == Some("token-of-the-environment")));

    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let file = "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s\n\n\
        [other]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = s\n";
    std::fs::write(home.path().join(".aws/credentials"), file).unwrap();
    for (profile, expected) in [(None, "AKIADEFAULT"), (Some("other"), "AKIAOTHER")] {
        let before = server.requests().len();
        let mut from_file = child(None, &server.endpoint(), home.path());
        profile.map(|profile| from_file.env("AWS_PROFILE", profile));
        run(from_file);
        let requests = server.requests().split_off(before);
        assert!(requests.len() == 4 && requests.iter().all(|request| signed_by(request) == expected), "{profile:?}");
    }
    let before = server.requests().len();
    let elsewhere = tempfile::tempdir().unwrap();
    let output = child(None, &server.endpoint(), elsewhere.path()).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no usable credentials"), "{output:?}");
    assert_eq!(server.requests().len(), before, "without credentials nothing is sent");
}

/// Names of hosts come from /etc/hosts, which the child sees another of: needs root.
#[test]
fn a_bucket_may_be_part_of_the_hosts_name() {
    let home = tempfile::tempdir().unwrap();
    let hosts = home.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost store.test bucket.store.test\n").unwrap();
    let server = Recorder::start(|_| None);
    let script = format!("mount --bind {} /etc/hosts", hosts.display());
    for (is_virtual, host, line) in [(true, "bucket.store.test", "GET /a"), (false, "store.test", "GET /bucket/a")] {
        let before = server.requests().len();
        let mut command = child(Some(&script), &format!("http://store.test:{}", server.port()), home.path());
        command.env("AWS_ACCESS_KEY_ID", "AKIA").env("AWS_SECRET_ACCESS_KEY", "s");
        if is_virtual {
            command.env("FOREBAY_TEST_VIRTUAL", "1");
        }
        run(command);
        let requests = server.requests().split_off(before);
        let expected = format!("{host}:{}", server.port());
        assert!(requests.len() == 4 && requests.iter().all(|request| request.header("host") == Some(&expected)), "{requests:?}");
        assert!(requests.iter().any(|request| request.line().starts_with(line)), "{requests:?}");
    }
}

#[tokio::test]
async fn the_servers_clock_is_read_from_any_answer_to_a_listing() {
    for status in ["200 OK", "403 Forbidden"] {
        let server = Recorder::start(move |_| {
            let body = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            Some((status, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".into(), body.into()))
        });
        let source = S3::new(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
        assert_eq!(source.clock_offset_seconds(), None);
        assert_eq!(source.list(&request("")).await.is_ok(), status == "200 OK");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let expected = 784_111_777 - i64::try_from(now).unwrap();
        let offset = source.clock_offset_seconds().unwrap();
        assert!((expected - 60..=expected).contains(&offset), "{offset}, expected {expected}");
    }
}
