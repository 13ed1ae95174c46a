#![expect(clippy::unwrap_used, reason = "tests")]
use clap::CommandFactory;
use forebay_api::Dataset;
use serde_json::json;

use super::set::{Progress, progress};
use super::*;

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn nonsense_is_refused_before_a_cluster_is_asked() {
    let check = |line: &str, words: &str| {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        assert!(error.contains(words), "{line}: {error}");
    };
    check("kubectl-forebay pin imagenet train", "begins with `/`");
    check("kubectl-forebay pin imagenet /a/../b", "without `..`");
    check("kubectl-forebay pin imagenet /a --max-bytes 0", "leave it out");
    check("kubectl-forebay pin imagenet /a --max-bytes much", "is no quantity");
    check("kubectl-forebay preload imagenet --max-bytes-per-second 1Zi", "is no quantity");
    check("kubectl-forebay preload imagenet --pause --wait", "cannot be used with");
    check("kubectl-forebay status imagenet -A", "cannot be used with");
    for line in ["preload imagenet --path /a --path /b --wait", "free imagenet / --undo -n vision", "status -A -o json", "doctor"] {
        Cli::try_parse_from(["kubectl-forebay"].into_iter().chain(line.split(' '))).unwrap();
    }
}

#[test]
fn a_preload_is_waited_for_until_it_is_done_for_the_current_spec() {
    let check = |revision: i64, suspend: bool, state: &str, warm: &str, seen: i64, expected: fn(&Progress) -> bool| {
        let dataset: Dataset = serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": "a", "generation": 2 },
            "spec": { "source": "s3://bucket/", "preload": { "when": "Once", "revision": 1, "suspend": suspend } },
            "status": {
                "conditions": [{
                    "type": "Warm", "status": warm, "reason": "R", "message": "why", "observedGeneration": seen, "lastTransitionTime": "2026-01-01T00:00:00Z"
                }],
                "preload": { "state": state, "revision": 1 }
            }
        }))
        .unwrap();
        let got = progress(&dataset, revision);
        assert!(expected(&got), "{revision} {suspend} {state} {warm} {seen}: {got:?}");
    };
    check(1, false, "Running", "False", 2, |got| matches!(got, Progress::Loading(_)));
    check(1, false, "Done", "True", 2, |got| matches!(got, Progress::Done(_)));
    check(1, false, "Done", "False", 2, |got| matches!(got, Progress::Waiting(_)));
    check(1, false, "Done", "True", 1, |got| matches!(got, Progress::Waiting(_)));
    check(1, false, "Failed", "False", 2, |got| matches!(got, Progress::Failed(_)));
    check(1, true, "Paused", "False", 2, |got| matches!(got, Progress::Over(_)));
    check(0, false, "Done", "True", 2, |got| matches!(got, Progress::Over(_)));
}
