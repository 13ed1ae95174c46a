//! What cache nodes say of themselves now: `forebay-node report`, run in their pods as `kubectl exec` would, so that the user's own rights decide.
//! Knows pods and exec. Does not judge what is reported.
//! Invariant: a node that doesn't answer costs its own figures only, and no more than `ANSWER_WITHIN`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forebay_daemon::logging::chain;
use forebay_wire::volume_service::ReportReply;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, ListParams};
use kube::client::UpgradeConnectionError;
use kube::{Client, ResourceExt};
use tokio::io::AsyncReadExt;

use crate::error::Error;
use crate::names;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The API server carries each of them.
const ASKED_AT_ONCE: usize = 16;
/// Ten thousand data sets stay below.
const REPORT_BYTES_MAX: u64 = 64 << 20;

/// Why there is no report of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silent {
    #[error("you may not run programs in its pod")]
    Forbidden,
    /// One sentence.
    #[error("{0}")]
    Other(String),
}

/// The answers of some nodes, by the node's name.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    pub nodes: BTreeMap<String, Result<ReportReply, Silent>>,
}

impl Sample {
    /// Nobody was let in.
    pub fn is_forbidden(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.values().all(|node| matches!(node, Err(Silent::Forbidden)))
    }
}

/// The pods of cache nodes, clients among them.
pub async fn pods(client: &Client, system: &str) -> Result<Vec<Pod>, Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), system);
    let selected = ListParams::default().labels(&format!("{}={}", names::COMPONENT_LABEL, names::NODE_COMPONENT));
    let found = api.list(&selected).await.map_err(|error| Error::of(format!("list the pods of {system}"), &error))?;
    Ok(found.items.into_iter().filter(|pod| pod.labels().contains_key(names::POLICY_LABEL) && node_of(pod).is_some()).collect())
}

pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// UID of its CachePolicy, or `client`.
pub fn policy_of(pod: &Pod) -> &str {
    pod.labels().get(names::POLICY_LABEL).map_or("", String::as_str)
}

/// Asks them all. Where a node has two pods for a moment, the one that answers counts.
pub async fn sample(client: &Client, system: &str, pods: &[Pod]) -> Sample {
    let api: Api<Pod> = Api::namespaced(client.clone(), system);
    let asked = pods.iter().filter_map(|pod| Some((node_of(pod)?.to_owned(), pod))).map(|(node, pod)| {
        let api = &api;
        async move {
            let answer = match tokio::time::timeout(ANSWER_WITHIN, ask(api, pod)).await {
                Ok(answer) => answer,
                Err(_) => Err(Silent::Other(format!("its pod {} doesn't answer", pod.name_any()))),
            };
            (node, answer)
        }
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
    let mut nodes = BTreeMap::new();
    for (node, answer) in answers {
        match nodes.entry(node) {
            std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(answer)),
            std::collections::btree_map::Entry::Occupied(mut taken) if answer.is_ok() => drop(taken.insert(answer)),
            std::collections::btree_map::Entry::Occupied(_) => {}
        }
    }
    Sample { at: Instant::now(), nodes }
}

async fn ask(pods: &Api<Pod>, pod: &Pod) -> Result<ReportReply, Silent> {
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Running") {
        return Err(Silent::Other(format!("its pod {} doesn't run", pod.name_any())));
    }
    let run = format!("{}/{}", names::RUN_FOLDER, policy_of(pod));
    let how = AttachParams::default().container(names::NODE_CONTAINER).stdin(false).stdout(true).stderr(true);
    let name = pod.name_any();
    let mut process = pods.exec(&name, ["forebay-node", "report", "--run", &run], &how).await.map_err(|error| refused(&error))?;
    let (out, err) = (process.stdout(), process.stderr());
    let read = async |stream: Option<_>| {
        let mut text = Vec::new();
        if let Some(stream) = stream {
            // What came is judged below.
            drop(AsyncReadExt::take(stream, REPORT_BYTES_MAX).read_to_end(&mut text).await);
        }
        text
    };
    let (text, complaint) = tokio::join!(read(out), read(err));
    parse(&text, &String::from_utf8_lossy(&complaint))
}

fn refused(error: &kube::Error) -> Silent {
    match error {
        kube::Error::Api(answer) if matches!(answer.code, 401 | 403) => Silent::Forbidden,
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) if matches!(code.as_u16(), 401 | 403) => {
            Silent::Forbidden
        }
        _ => Silent::Other(format!("run forebay-node in its pod: {}", chain(error))),
    }
}

/// Pure.
fn parse(text: &[u8], complaint: &str) -> Result<ReportReply, Silent> {
    serde_json::from_slice(text).map_err(|error| {
        let complaint = complaint.trim();
        Silent::Other(match complaint.lines().next() {
            Some(line) if complaint.contains("unrecognized subcommand") || complaint.contains("Usage:") => {
                format!("its forebay-node is older than this plugin and knows no report ({line})")
            }
            Some(line) => line.trim_start_matches("error: ").to_owned(),
            None => format!("its report can't be read: {error}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_prints_is_a_report_or_a_reason() {
        let check = |text: &str, complaint: &str, expected: Result<&str, &str>| {
            let got = parse(text.as_bytes(), complaint);
            match expected {
                Ok(version) => assert_eq!(got.map(|report| report.version).as_deref(), Ok(version), "{text}"),
                Err(words) => assert!(got.as_ref().is_err_and(|silent| silent.to_string().contains(words)), "{got:?}, expected {words}"),
            }
        };
        // Of a newer node and of an older one: fields that aren't known, and fields that aren't there.
        check(r#"{"version":"9","added":1,"observed":{"node":"n1","datasets":[{"uid":"u","extra":true}]}}"#, "", Ok("9"));
        check("", "error: unrecognized subcommand 'report'\n\nUsage: forebay-node", Err("older than this plugin"));
        check("", "error: connect to the daemon at /run/x: it doesn't answer", Err("connect to the daemon"));
        check("", "", Err("can't be read"));
    }
}
