#![expect(clippy::unwrap_used, reason = "tests")]
use forebay_wire::node_config::Tier;
use forebay_wire::unit::Percent;

use super::*;

#[test]
fn every_kernel_is_told_what_it_offers() {
    let check = |release: &str, is_root: bool, levels: &[Level]| {
        let found: Vec<_> = kernel(release, is_root).into_iter().map(|finding| finding.level).collect();
        assert_eq!(found, levels, "{release}");
    };
    check("6.18.0-generic", true, &[Level::Ok, Level::Ok]);
    check("6.9", false, &[Level::Ok, Level::Warn]);
    check("6.8.0-31-generic", true, &[Level::Warn]);
    check("5.15.0", true, &[Level::Warn]);
    check("strange", true, &[Level::Warn]);
}

#[test]
fn memory_counts_the_smaller_of_machine_and_limit() {
    let meminfo = "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n";
    assert_eq!(memory(meminfo, &["max\n".into()]).level, Level::Ok);
    assert_eq!(memory(meminfo, &["134217728\n".into()]).level, Level::Warn);
    assert_eq!(memory("MemAvailable: 1000 kB\n", &[]).level, Level::Warn);
    assert_eq!(memory("", &[]).level, Level::Warn);
}

#[test]
fn a_device_that_is_missing_or_none_fails() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(device(&folder.path().join("fuse")).level, Level::Fail);
    std::fs::write(folder.path().join("fuse"), "").unwrap();
    assert_eq!(device(&folder.path().join("fuse")).level, Level::Fail);
}

#[test]
fn a_cache_folder_need_not_exist_yet() {
    let folder = tempfile::tempdir().unwrap();
    let tier = |path: &Path| Tier {
        path: path.to_owned(),
        capacity: "1Ki".parse().unwrap(),
        keep_free: forebay_wire::unit::Percent::new(0).unwrap(),
    };
    let (finding, room) = disk(&tier(&folder.path().join("a/b")));
    assert_eq!((finding.level, room), (Level::Ok, 1024));
    assert!(!folder.path().join("a").exists(), "doctor changes nothing");
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(disk(&tier(&folder.path().join("file/b"))).0.level, Level::Fail);
}

#[tokio::test]
async fn a_dataset_is_examined_as_a_mount_would() {
    let folder = tempfile::tempdir().unwrap();
    let tier = Tier { path: folder.path().join("cache"), keep_free: Percent::new(0).unwrap(), ..Tier::default() };
    let config = NodeConfig { tiers: vec![tier], ..NodeConfig::default() };
    let examine = async |uri: String| {
        let text = format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: a }}\nspec:\n  source: {uri}\n");
        examine(Some(&Dataset::parse("d.yaml", &text).unwrap()), &config).await
    };
    let find = |findings: &[Finding], check: &str| findings.iter().find(|finding| finding.check == check).cloned();
    let findings = examine(format!("file://{}", folder.path().join("missing").display())).await;
    assert_eq!(find(&findings, "source").unwrap().level, Level::Fail);
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    std::fs::write(folder.path().join("bucket/a"), "12345").unwrap();
    let findings = examine(format!("file://{}", folder.path().join("bucket").display())).await;
    assert!(find(&findings, "source").unwrap().found.contains("1 files"), "{findings:?}");
    assert_eq!(find(&findings, "size").unwrap().level, Level::Ok);
    let text = serde_json::to_value(&findings).unwrap();
    assert_eq!(text[0]["check"], "fuse device");
}

/// Answers every request with an empty listing and this date.
async fn server(date: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            let body = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_clock_that_is_off_is_seen_and_cured() {
    let folder = tempfile::tempdir().unwrap();
    let config = NodeConfig { tiers: vec![Tier { path: folder.path().join("cache"), ..Tier::default() }], ..NodeConfig::default() };
    let endpoint = server("Sun, 06 Nov 1994 08:49:37 GMT").await;
    let text = format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: a }}\nspec:\n  source: s3://abc\n  s3: {{ endpoint: \"{endpoint}\", anonymous: true }}\n"
    );
    let findings = examine(Some(&Dataset::parse("d.yaml", &text).unwrap()), &config).await;
    let clock = findings.iter().find(|finding| finding.check == "clock").unwrap();
    assert_eq!(clock.level, Level::Fail);
    assert!(clock.found.contains("before the source's") && clock.cure.as_ref().unwrap().contains("15 minutes"), "{clock:?}");
    assert_eq!(findings.iter().find(|finding| finding.check == "source").unwrap().level, Level::Ok);
}
