#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

fn share(name: &str, percent: i32) -> NodeShare {
    NodeShare { name: name.to_owned(), percent }
}

#[test]
fn coverage_tells_the_spread_and_names_the_least() {
    assert_eq!(NodeCoverage::of(Vec::new()), None);
    let shares = (0..1000).map(|index| share(&format!("node-{index:04}"), 100 - index / 10)).collect();
    let coverage = NodeCoverage::of(shares).unwrap();
    assert_eq!((coverage.count, coverage.min, coverage.median, coverage.max), (1000, 1, 50, 100));
    assert_eq!(coverage.least.len(), SAMPLES_MAX);
    assert_eq!(coverage.least[0], share("node-0990", 1));
    let two = NodeCoverage::of(vec![share("b", 10), share("a", 10)]).unwrap();
    assert_eq!(two.least, [share("a", 10), share("b", 10)]);
}

#[test]
fn a_sample_is_cut_at_a_character() {
    assert_eq!(sample_text("short"), "short");
    for letter in ["a", "é", "€", "𝄞"] {
        let cut = sample_text(&letter.repeat(300));
        assert!(cut.len() <= SAMPLE_BYTES_MAX && cut.len() > SAMPLE_BYTES_MAX - 4 && cut.ends_with('…'), "{letter}: {}", cut.len());
    }
}

#[test]
fn the_largest_status_stays_below_16_kib() {
    // A quote becomes two bytes in JSON: the worst that a printable name can do.
    let text = sample_text(&"\"".repeat(4096));
    let condition = |type_: &str| k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
        last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        message: "m".repeat(crate::condition::MESSAGE_BYTES_MAX),
        observed_generation: Some(i64::MAX),
        reason: "SourceNotReachable".to_owned(),
        status: "Unknown".to_owned(),
        type_: type_.to_owned(),
    };
    let status = DatasetStatus {
        observed_generation: Some(i64::MAX),
        conditions: crate::condition::DATASET_CONDITIONS.iter().map(|kind| condition(kind.as_str())).collect(),
        policy: Some(ResolvedPolicy { name: "p".repeat(253), uid: "u".repeat(36) }),
        claim: Some("c".repeat(63)),
        version: Some("f".repeat(64)),
        last_sync_time: Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)),
        files: Some(i64::MAX),
        size: Some("1023.9Ei".to_owned()),
        cached: Some("1023.9Ei".to_owned()),
        warm: Some("100%".to_owned()),
        hit: Some("100%".to_owned()),
        preload: Some(PreloadStatus::default()),
        quota: Some(QuotaStatus { used: "1023.9Ei".to_owned(), excess: Some("1023.9Ei".to_owned()) }),
        failed_files: vec![FailedFile { path: text.clone(), reason: "r".repeat(SAMPLE_BYTES_MAX) }; SAMPLES_MAX],
        problem_keys: Some(ProblemKeys {
            count: i64::MAX,
            samples: vec![ProblemKey { key: text.clone(), reason: Some("r".repeat(SAMPLE_BYTES_MAX)) }; SAMPLES_MAX],
        }),
        nodes: NodeCoverage::of((0..1000).map(|_| share(&"n".repeat(253), 100)).collect()),
    };
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(bytes < 16 << 10, "{bytes}");
}
