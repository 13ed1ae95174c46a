//! The commands that only look: `status` and `doctor`.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use forebay_api::Dataset;
use forebay_daemon::exit::Exit;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::json;

use super::{DoctorArgs, Output, StatusArgs};
use crate::cluster::Cluster;
use crate::doctor::{self, text};
use crate::error::Error;
use crate::live::{self, Sample};
use crate::status::text::plain;
use crate::status::{self, Live, View};
use crate::{names, observe};

/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) async fn status(cluster: &Cluster, args: &StatusArgs) -> Result<Exit, Error> {
    let mut before: Option<Sample> = None;
    let every = Duration::from_secs(args.every);
    loop {
        let mut datasets = cluster.some_datasets(args.name.as_deref()).await?;
        let (pods, mut notes) = if args.no_live || datasets.is_empty() { (Vec::new(), Vec::new()) } else { pods(cluster, &datasets).await };
        let mut now = None;
        if !pods.is_empty() {
            if before.is_none() {
                before = Some(live::sample(&cluster.client, &cluster.system, &pods).await);
            }
            let forbidden = before.as_ref().is_some_and(Sample::is_forbidden);
            if forbidden {
                notes.push(format!(
                    "you may not run programs in the pods of {} (pods/exec), so these are the figures of the Dataset's status, at most 30 s old",
                    cluster.system
                ));
            } else {
                tokio::time::sleep(every).await;
                now = Some(live::sample(&cluster.client, &cluster.system, &pods).await);
                // Beside figures of now, conditions of now.
                datasets = cluster.some_datasets(args.name.as_deref()).await?;
            }
        } else if args.watch {
            tokio::time::sleep(every).await;
        }
        let views: Vec<View> = datasets.iter().map(|dataset| view(dataset, &pods, before.as_ref(), now.as_ref(), &notes)).collect();
        show(args, &views, cluster.namespace.is_none(), &notes);
        if !args.watch {
            return Ok(Exit::Ok);
        }
        if now.is_some() {
            before = now;
        } else if before.is_some() {
            // Nobody may ask: it stays so, and the next look must not come at once.
            tokio::time::sleep(every).await;
        }
    }
}

/// The pods of the cache nodes that may serve `datasets`, or why they can't be asked.
async fn pods(cluster: &Cluster, datasets: &[Dataset]) -> (Vec<Pod>, Vec<String>) {
    let policies: BTreeSet<&str> =
        datasets.iter().filter_map(|dataset| Some(dataset.status.as_ref()?.policy.as_ref()?.uid.as_str())).collect();
    let serves = |pod: &Pod| live::policy_of(pod) == names::CLIENT || policies.contains(live::policy_of(pod));
    match live::pods(&cluster.client, &cluster.system).await {
        Ok(pods) if pods.is_empty() => {
            (pods, vec![format!("there are no cache nodes in {}; --forebay-namespace names another namespace", cluster.system)])
        }
        Ok(pods) => (pods.into_iter().filter(serves).collect(), Vec::new()),
        Err(error) => (Vec::new(), vec![format!("the nodes were not asked: {error}")]),
    }
}

fn view(dataset: &Dataset, pods: &[Pod], before: Option<&Sample>, now: Option<&Sample>, notes: &[String]) -> View {
    let uid = dataset.status.as_ref().and_then(|status| status.policy.as_ref()).map_or("", |policy| policy.uid.as_str());
    let on = |policy: &str| -> Vec<String> {
        let nodes: BTreeSet<&str> = pods.iter().filter(|pod| live::policy_of(pod) == policy).filter_map(live::node_of).collect();
        nodes.into_iter().map(str::to_owned).collect()
    };
    let (members, clients) = (on(uid), on(names::CLIENT));
    let live = now.map(|now| Live { before, now, members: &members, clients: &clients });
    status::view(dataset, live, notes.to_vec())
}

fn show(args: &StatusArgs, views: &[View], with_namespace: bool, notes: &[String]) {
    let text = match (args.output.output, views, &args.name) {
        (Output::Json, [view], Some(_)) => json(view),
        (Output::Json, views, _) => json(&views),
        (Output::Text, [view], Some(_)) => status::text::detail(view),
        (Output::Text, [], _) => "there are no data sets here; -A shows those of all namespaces\n".to_owned(),
        (Output::Text, views, _) => {
            let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
            status::text::table(views, with_namespace) + &notes
        }
    };
    let mut out = std::io::stdout();
    let clear = if args.watch && args.output.output == Output::Text && out.is_terminal() { CLEAR } else { "" };
    // Who doesn't read on is no error.
    drop(write!(out, "{clear}{}", plain(&text)));
    drop(out.flush());
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

pub(super) async fn doctor(cluster: &Cluster, args: &DoctorArgs) -> Result<Exit, Error> {
    let wanted: Vec<(String, String, Option<Dataset>)> = match &args.name {
        Some(name) => {
            let found = match cluster.dataset(name).await {
                Ok(dataset) => Some(dataset),
                Err(Error::NoDataset { .. }) => None,
                Err(error) => return Err(error),
            };
            vec![(cluster.one_namespace()?.to_owned(), name.clone(), found)]
        }
        None => {
            let found = cluster.some_datasets(None).await?.into_iter();
            found.map(|dataset| (dataset.namespace().unwrap_or_default(), dataset.name_any(), Some(dataset))).collect()
        }
    };
    let world = observe::world(cluster, true).await;
    let mut blind = world.blind.clone();
    let mut reports = vec![("Forebay".to_owned(), doctor::of_parts(&world))];
    for (namespace, name, dataset) in wanted {
        let observed = observe::dataset(cluster, &namespace, &name, dataset).await;
        blind.extend(observed.blind.iter().cloned());
        reports.push((format!("{namespace}/{name}"), doctor::of_dataset(&world, &observed)));
    }
    blind.dedup();
    let wrong = reports.iter().any(|(_, findings)| doctor::is_wrong(findings));
    let text = match args.output.output {
        Output::Json => {
            let rows: Vec<_> = reports.iter().map(|(about, findings)| json!({ "about": about, "findings": findings })).collect();
            json(&json!({ "reports": rows, "notSeen": blind }))
        }
        Output::Text => {
            let reports: Vec<String> = reports.iter().map(|(about, findings)| text::report(about, findings)).collect();
            let blind: String = blind.iter().map(|what| format!("not seen: {what}\n")).collect();
            reports.join("\n") + &blind
        }
    };
    drop(write!(std::io::stdout(), "{}", plain(&text)));
    Ok(if wrong { Exit::Findings } else { Exit::Ok })
}
