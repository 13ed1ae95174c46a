//! `follow`: tells how far a preload is until its data set is warm. It is what a preload's Job runs, and its log is what people read.
//! Knows the Dataset's status. Does not load anything itself.

use std::io::Write as _;

use forebay_api::Dataset;
use forebay_api::condition::{ConditionType, find, is_true};
use forebay_daemon::exit::Exit;
use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use futures::StreamExt;
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};

/// What a Dataset's status says to who follows `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Going(String),
    Warm(String),
    /// Another revision is wanted by now: this one is over.
    Replaced(i64),
}

/// Pure.
pub fn progress(dataset: &Dataset, revision: i64) -> Progress {
    let wanted = dataset.spec.preload.as_ref().and_then(|preload| preload.revision).unwrap_or(0);
    if wanted != revision {
        return Progress::Replaced(wanted);
    }
    let status = dataset.status.clone().unwrap_or_default();
    let warm = find(&status.conditions, ConditionType::Warm);
    let current = warm.is_some_and(|warm| warm.observed_generation == dataset.metadata.generation);
    let why = warm.map_or("nothing is known of it yet", |warm| warm.message.as_str());
    let preload = status.preload.filter(|preload| preload.revision == revision);
    if current && is_true(&status.conditions, ConditionType::Warm) {
        return Progress::Warm(format!("warm: {why}"));
    }
    Progress::Going(match preload {
        Some(preload) => format!(
            "{:?}: {} of {} files, {} of {}, {} failed: {why}",
            preload.state, preload.files, preload.files_total, preload.bytes, preload.bytes_total, preload.failed
        ),
        None => format!("waiting: {why}"),
    })
}

/// Prints a line for each change until the data set is warm.
pub async fn run(client: Client, namespace: &str, name: &str, revision: i64, shutdown: Shutdown) -> Exit {
    let api: Api<Dataset> = Api::namespaced(client, namespace);
    let mut changes = watcher::watch_object(api, name).default_backoff().boxed();
    let mut last = String::new();
    loop {
        let change = tokio::select! {
            () = shutdown.wait() => return Exit::Temporary,
            change = changes.next() => change,
        };
        let progress = match change {
            Some(Ok(Some(dataset))) => progress(&dataset, revision),
            Some(Ok(None)) => {
                say(&mut last, format!("the Dataset {namespace}/{name} isn't there"));
                return Exit::NoInput;
            }
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "the Dataset can't be watched now");
                continue;
            }
            None => return Exit::Unavailable,
        };
        match progress {
            Progress::Going(line) => say(&mut last, line),
            Progress::Warm(line) => {
                say(&mut last, line);
                return Exit::Ok;
            }
            Progress::Replaced(wanted) => {
                say(&mut last, format!("revision {wanted} is wanted by now: this preload is over"));
                return Exit::Ok;
            }
        }
    }
}

/// A log that can't be written stops no preload.
fn say(last: &mut String, line: String) {
    if *last != line {
        drop(writeln!(std::io::stdout(), "{line}"));
        *last = line;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn check(revision: i64, warm: Option<(&str, i64)>, expected: &Progress) {
        let conditions: Vec<Value> = warm
            .iter()
            .map(|(status, seen)| {
                json!({ "type": "Warm", "status": status, "reason": "R", "message": "why", "observedGeneration": seen, "lastTransitionTime": "2026-01-01T00:00:00Z" })
            })
            .collect();
        let preload =
            json!({ "state": "Running", "revision": 1, "files": 3, "filesTotal": 9, "bytes": "3Gi", "bytesTotal": "9Gi", "failed": 0 });
        let dataset: Dataset = serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset",
            "metadata": { "name": "imagenet", "namespace": "vision", "generation": 2 },
            "spec": { "source": "s3://bucket/", "preload": { "when": "Once", "revision": 1 } },
            "status": { "conditions": conditions, "preload": preload }
        }))
        .unwrap();
        assert_eq!(progress(&dataset, revision), *expected);
    }

    #[test]
    fn a_preload_is_followed_until_it_is_warm_for_the_current_spec() {
        let going = |why: &str| Progress::Going(format!("Running: 3 of 9 files, 3Gi of 9Gi, 0 failed: {why}"));
        check(1, None, &going("nothing is known of it yet"));
        check(1, Some(("False", 2)), &going("why"));
        check(1, Some(("True", 1)), &going("why"));
        check(1, Some(("True", 2)), &Progress::Warm("warm: why".to_owned()));
        check(0, Some(("True", 2)), &Progress::Replaced(1));
    }
}
