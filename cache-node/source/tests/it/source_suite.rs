//! One suite for every source: the same keys, the same questions, the same answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use forebay_source::faulty::{Fault, Faulty};
use forebay_source::file::FileSource;
use forebay_source::s3::S3;
use forebay_source::{Key, Limits, ListRequest, Object, RetryPolicy, Source, SourceError, SourceHandle, Version};
use forebay_wire::block::Extent;
use futures::TryStreamExt;

use crate::s3_server::{S3Server, SECRET_KEY, access, location};

pub(crate) fn key(text: &str) -> Key {
    Key(Bytes::copy_from_slice(text.as_bytes()))
}

pub(crate) fn request(prefix: &str) -> ListRequest {
    ListRequest { prefix: Bytes::copy_from_slice(prefix.as_bytes()), after: None, before: None, one_level: false }
}

pub(crate) async fn read(source: &dyn Source, object: &Object, start: u64, end: u64) -> Result<Vec<u8>, SourceError> {
    let extent = Extent::new(start, end).unwrap();
    let whole = start == 0 && end == object.size;
    let parts: Vec<Bytes> = source.read(&object.key, &object.version, extent, whole).await?.try_collect().await?;
    Ok(parts.concat())
}

async fn list(source: &dyn Source, mut request: ListRequest) -> (Vec<Object>, Vec<Bytes>) {
    let (mut objects, mut folders) = (Vec::new(), Vec::new());
    loop {
        let page = source.list(&request).await.unwrap();
        objects.extend(page.objects);
        folders.extend(page.folders);
        match page.next {
            Some(next) => {
                assert!(request.after.is_none_or(|after| next > after), "a listing must go on");
                request.after = Some(next);
            }
            None => return (objects, folders),
        }
    }
}

/// Keys that every source can hold; their order in a bucket is not that of a folder tree read name by name.
fn contents() -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for name in ["a.txt", "a/b", "a/c d+e%20.bin", "a-", "a/deep/er/x", "z/ü/ä", "z/日本", "0", "m/&<>'\"", "b/1", "b/10", "b/2"] {
        contents.insert(name.to_owned(), format!("contents of {name}").into_bytes());
    }
    for index in 0..1203 {
        contents.insert(format!("many/f{index:05}"), vec![u8::try_from(index % 251).unwrap(); index % 7]);
    }
    contents.insert("big".into(), (0..3_000_000u32).map(|index| (index % 253) as u8).collect());
    contents
}

/// The suite. `put` writes an object behind the source's back.
async fn check(source: Arc<dyn Source>, contents: &BTreeMap<String, Vec<u8>>, put: &dyn Fn(&str, &[u8])) {
    let source = &*source;
    // The whole listing, in order.
    let (objects, _) = list(source, request("")).await;
    let got: Vec<_> = objects.iter().map(|object| (String::from_utf8(object.key.0.to_vec()).unwrap(), object.size)).collect();
    let expected: Vec<_> = contents.iter().map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect();
    assert_eq!(got, expected);

    // Prefixes, also ones that end inside a name.
    for prefix in ["a", "a/", "a/d", "many/f01", "z/", "none", "b/1"] {
        let (objects, _) = list(source, request(prefix)).await;
        let expected: Vec<_> = contents.keys().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(
            objects.iter().map(|object| &object.key.0[..]).collect::<Vec<_>>(),
            expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>(),
            "{prefix}"
        );
    }

    // Ranges of keys.
    for (after, before) in [("a/b", "b/2"), ("a/", "a0"), ("many/f00100", "many/f01150"), ("zzz", "zzzz"), ("a/deep", "m")] {
        let range = ListRequest { after: Some(Bytes::from(after)), before: Some(Bytes::from(before)), ..request("") };
        let (objects, _) = list(source, range).await;
        let expected: Vec<_> = contents.keys().filter(|key| key.as_str() > after && key.as_str() < before).collect();
        assert_eq!(
            objects.iter().map(|object| &object.key.0[..]).collect::<Vec<_>>(),
            expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>(),
            "{after}..{before}"
        );
    }

    // One level.
    for prefix in ["", "a/", "many/", "z/"] {
        let (objects, folders) = list(source, ListRequest { one_level: true, ..request(prefix) }).await;
        let below = contents.keys().filter_map(|key| key.strip_prefix(prefix));
        let (inside, here): (Vec<_>, Vec<_>) = below.partition(|rest| rest.contains('/'));
        let mut expected: Vec<_> = inside.iter().map(|rest| format!("{prefix}{}/", rest.split('/').next().unwrap())).collect();
        expected.dedup();
        assert_eq!(folders, expected, "{prefix}");
        assert_eq!(objects.len(), here.len(), "{prefix}");
    }

    // Head and listing agree; every byte is right, whole and in ranges.
    for object in objects.iter().filter(|object| !object.key.0.starts_with(b"many/")) {
        let bytes = &contents[std::str::from_utf8(&object.key.0).unwrap()];
        let head = source.head(&object.key).await.unwrap();
        assert_eq!((head.size, &head.version), (object.size, &object.version));
        assert_eq!(read(source, object, 0, object.size).await.unwrap(), *bytes);
        assert_eq!(read(source, object, 1, object.size).await.unwrap(), bytes[1..]);
        assert_eq!(read(source, object, 0, 1).await.unwrap(), bytes[..1]);
    }
    let big = objects.iter().find(|object| object.key == key("big")).unwrap();
    assert_eq!(read(source, big, 1_048_575, 2_097_153).await.unwrap(), contents["big"][1_048_575..2_097_153]);

    // What is gone, and what is another now.
    let absent = Object { key: key("absent"), ..big.clone() };
    assert!(matches!(source.head(&absent.key).await, Err(SourceError::NotFound { .. })));
    assert!(matches!(read(source, &absent, 0, 1).await, Err(SourceError::NotFound { .. })));
    let other = Object { version: Version(Bytes::from_static(b"0123456789abcdef0123456789abcdef")), ..big.clone() };
    assert!(matches!(read(source, &other, 0, 10).await, Err(SourceError::Replaced { .. })));
    put("a/b", b"something else, longer");
    let old = objects.iter().find(|object| object.key == key("a/b")).unwrap();
    assert!(matches!(read(source, old, 0, old.size).await, Err(SourceError::Replaced { .. })));
    let new = source.head(&key("a/b")).await.unwrap();
    assert_eq!(read(source, &new, 0, new.size).await.unwrap(), b"something else, longer");
}

#[tokio::test]
async fn a_folder_is_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let put = |key: &str, bytes: &[u8]| {
        let path = folder.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let contents = contents();
    contents.iter().for_each(|(key, bytes)| put(key, bytes));
    check(Arc::new(FileSource::new(folder.path()).unwrap()), &contents, &put).await;
}

/// Every third request fails, and nobody notices behind retries and limits.
#[tokio::test]
async fn a_faulty_source_is_a_source_once_it_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let put = |key: &str, bytes: &[u8]| {
        let path = folder.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let contents = contents();
    contents.iter().for_each(|(key, bytes)| put(key, bytes));
    let mut count = 0;
    let faulty = Faulty::new(Arc::new(FileSource::new(folder.path()).unwrap()), move |_, _| {
        count += 1;
        [Fault::None, Fault::None, Fault::Gone, Fault::None, Fault::BreakAfter(1), Fault::None, Fault::Throttled][count % 7]
    });
    let policy = RetryPolicy { pause_min: std::time::Duration::from_millis(1), ..RetryPolicy::default() };
    let handle = SourceHandle::wrap(Arc::new(faulty), Limits::default(), policy);
    check(handle.background(), &contents, &put).await;
    assert!(handle.metrics().retries.get() > 0 && handle.metrics().throttles.get() > 0);
    assert_eq!(handle.metrics().in_flight.get(), 0);
}

#[tokio::test]
async fn a_bucket_is_a_source() {
    for prefix in ["", "some/prefix/"] {
        let server = S3Server::start("bucket").await;
        let put = |key: &str, bytes: &[u8]| server.put("bucket", &format!("{prefix}{key}"), bytes);
        let contents = contents();
        contents.iter().for_each(|(key, bytes)| put(key, bytes));
        let source = S3::new(&location(server.endpoint(), "bucket", prefix), &access(SECRET_KEY)).unwrap();
        check(Arc::new(source), &contents, &put).await;
    }
}

#[tokio::test]
async fn refusals_are_told_by_name() {
    let server = S3Server::start("bucket").await;
    server.put("bucket", "a", b"x");
    let wrong = S3::new(&location(server.endpoint(), "bucket", ""), &access("wrong-secret-canary")).unwrap();
    let error = wrong.list(&request("")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Denied { cure, .. } if cure.contains("secret key")), "{error}");
    assert!(!format!("{error:?}{error}").contains("canary"));
    let missing = S3::new(&location(server.endpoint(), "absent", ""), &access(SECRET_KEY)).unwrap();
    let error = missing.list(&request("")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Missing { detail, .. } if detail.contains("no bucket absent")), "{error}");
    let closed = S3::new(&location("http://127.0.0.1:1".into(), "bucket", ""), &access(SECRET_KEY)).unwrap();
    let error = closed.list(&request("")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Unavailable { detail, .. } if detail.contains("refused")), "{error}");
}
