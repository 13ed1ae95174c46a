//! The server through the AWS SDK, over a real socket.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use crate::serve::{Counters, counted, run, service};
use crate::{get, workload};

const KEYS: [&str; 6] = ["a/1", "a/2", "a/b/3", "b", "c/4", "d"];

/// Runs `test` against a server over the keys above; each object holds its own key.
fn with_server(test: impl FnOnce(&str, &std::path::Path)) {
    let root = tempfile::tempdir().unwrap();
    for key in KEYS {
        let path = root.path().join("bucket").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, key).unwrap();
    }
    let counters = Arc::new(Counters::default());
    let service = service(root.path(), counters.clone()).unwrap();
    let ready = root.path().join("ready");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (server, mut changes) = (run(service, counters, "127.0.0.1:0".parse().unwrap(), Some(ready.clone())), 0);
    runtime.spawn(server);
    while !ready.exists() {
        changes += 1;
        assert!(changes < 10_000, "the server listens within ten seconds");
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    test(&std::fs::read_to_string(ready).unwrap(), root.path());
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Every page of a listing, `page` keys each: the keys and the folders in the order they came.
fn list(endpoint: &str, prefix: &str, delimiter: Option<&str>, page: i32) -> (Vec<String>, Vec<String>) {
    let (client, mut keys, mut folders, mut token) = (get::client(endpoint), Vec::new(), Vec::new(), None::<String>);
    loop {
        let request = client.list_objects_v2().bucket("bucket").prefix(prefix).max_keys(page);
        let request = request.set_delimiter(delimiter.map(str::to_owned)).set_continuation_token(token);
        let answer = block_on(request.send()).unwrap();
        assert!(answer.contents().iter().all(|object| object.e_tag().is_some()), "a listing carries ETags");
        keys.extend(answer.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        folders.extend(answer.common_prefixes().iter().filter_map(|folder| folder.prefix().map(str::to_owned)));
        token = answer.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return (keys, folders);
        }
    }
}

#[test]
fn pages_of_any_size_list_the_same() {
    with_server(|endpoint, _| {
        let check = |prefix: &str, delimiter: Option<&str>, keys: &[&str], folders: &[&str]| {
            for page in 1..=7 {
                let got = list(endpoint, prefix, delimiter, page);
                assert_eq!(
                    (got.0.as_slice(), got.1.as_slice()),
                    (strings(keys).as_slice(), strings(folders).as_slice()),
                    "{prefix} {page}"
                );
            }
        };
        check("", None, &KEYS, &[]);
        check("a/", None, &["a/1", "a/2", "a/b/3"], &[]);
        check("", Some("/"), &["b", "d"], &["a/", "c/"]);
        check("a/", Some("/"), &["a/1", "a/2"], &["a/b/"]);
        check("nothing", None, &[], &[]);
    });
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn ranges_conditions_and_counters() {
    with_server(|endpoint, root| {
        let client = get::client(endpoint);
        let answer = block_on(client.get_object().bucket("bucket").key("a/b/3").range("bytes=2-3").send()).unwrap();
        assert_eq!((answer.content_range(), answer.content_length()), (Some("bytes 2-3/5"), Some(2)));
        let etag = answer.e_tag().unwrap().to_owned();
        assert_eq!(block_on(answer.body.collect()).unwrap().into_bytes().as_ref(), b"b/");
        assert_eq!(counted(endpoint).unwrap().body_bytes, 2);

        let same = block_on(client.get_object().bucket("bucket").key("a/b/3").if_match(&etag).send());
        assert!(same.is_ok());
        std::fs::write(root.join("bucket/a/b/3"), "replaced").unwrap();
        let other = block_on(client.get_object().bucket("bucket").key("a/b/3").if_match(&etag).send());
        assert_eq!(other.unwrap_err().raw_response().unwrap().status().as_u16(), 412);
        let missing = block_on(client.get_object().bucket("bucket").key("nothing").send());
        assert_eq!(missing.unwrap_err().raw_response().unwrap().status().as_u16(), 404);
    });
}

#[test]
fn what_was_put_is_listed_and_read() {
    with_server(|endpoint, root| {
        let local = root.join("local");
        std::fs::create_dir_all(local.join("deep")).unwrap();
        std::fs::write(local.join("deep/file"), vec![7; 300_000]).unwrap();
        assert_eq!(get::put_all(endpoint, "bucket", "new/", &local, 2).unwrap(), 1);
        assert_eq!(list(endpoint, "new/", None, 10).0, ["new/deep/file"]);
        let keys = [("new/deep/file".to_owned(), 300_000)];
        assert_eq!(get::all(endpoint, "bucket", &keys, 2, 0).unwrap().bytes, 300_000);
        assert_eq!(get::first_bytes(endpoint, "bucket", &keys).unwrap().len(), 1);
        assert_eq!(workload::files_below(&root.join("bucket/new")).unwrap()[0].1, 300_000);
    });
}
