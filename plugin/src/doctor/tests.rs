#![expect(clippy::unwrap_used, reason = "tests")]
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";
const BEFORE: &str = "2026-01-01T00:00:00Z";

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A pod of Forebay on n1; `more` goes into its status.
fn part(name: &str, component: &str, ready: bool, more: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "labels": { "app.kubernetes.io/component": component, "forebay.dev/policy": "p1" } },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] }
    });
    pod["status"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    from(pod)
}

/// All well.
fn world() -> World {
    let pods = ["operator", "csi", "node"].map(|name| part(name, name, true, json!({})));
    World {
        now: NOW.parse().unwrap(),
        system: "forebay-system".to_owned(),
        policies: Some(vec![from(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy", "metadata": { "name": "default", "uid": "p1" },
            "spec": { "default": true, "tiers": [] }
        }))]),
        pods: Some(pods.to_vec()),
        nodes: Some(vec![node("n1", "6.12.0")]),
        has_driver: Some(true),
        reports: BTreeMap::new(),
        blind: Vec::new(),
    }
}

fn node(name: &str, kernel: &str) -> Node {
    let info = json!({
        "kernelVersion": kernel, "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
        "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""
    });
    from(json!({ "metadata": { "name": name }, "status": { "nodeInfo": info, "conditions": [{ "type": "Ready", "status": "True" }] } }))
}

/// `conditions` as `Ready=False/NoNodes: why`.
fn observed(spec: Value, conditions: &[&str]) -> Observed {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|text| {
            let (head, message) = text.split_once(": ").unwrap_or((text, "well"));
            let (kind, rest) = head.split_once('=').unwrap();
            let (status, reason) = rest.split_once('/').unwrap();
            json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": BEFORE })
        })
        .collect();
    let mut whole = json!({ "source": "s3://bucket/" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Observed {
        namespace: "vision".to_owned(),
        name: "t".to_owned(),
        dataset: Some(from(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset",
            "metadata": { "name": "t", "namespace": "vision", "uid": "u1", "generation": 1, "creationTimestamp": BEFORE },
            "spec": whole, "status": { "observedGeneration": 1, "conditions": conditions }
        }))),
        claim: Some(Some(from(json!({ "spec": { "volumeName": "forebay-u1" }, "status": { "phase": "Bound" } })))),
        volume: Some(Some(from(json!({})))),
        ..Observed::default()
    }
}

const WELL: &[&str] =
    &["Ready=True/Readable", "Warm=True/Held", "SourceReachable=True/Reachable", "Synced=True/Listed", "Degraded=False/AsExpected"];

/// A pod of a user.
fn user(name: &str, on: Option<&str>, phase: &str, more: Value) -> Pod {
    let mut spec = json!({
        "containers": [], "nodeName": on,
        "volumes": [{ "name": "data", "csi": { "driver": "csi.forebay.dev", "volumeAttributes": { "dataset": "t" } } }]
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    from(json!({ "metadata": { "name": name, "uid": name }, "spec": spec, "status": { "phase": phase } }))
}

fn event(pod: &str, reason: &str, message: &str, at: &str) -> Event {
    from(json!({
        "metadata": {}, "involvedObject": { "uid": pod }, "reason": reason, "message": message, "type": "Warning", "count": 3, "lastTimestamp": at
    }))
}

/// Each of `expected`, in this order, is `FAIL about: piece of what is wrong | piece of what to do`.
fn check(findings: &[Finding], expected: &[&str]) {
    let told: Vec<String> = findings.iter().map(|one| format!("{:?} {}: {} | {}", one.level, one.about, one.wrong, one.next)).collect();
    assert_eq!(findings.len(), expected.len(), "{told:#?}, expected {expected:#?}");
    for (finding, expected) in findings.iter().zip(expected) {
        let (head, next) = expected.split_once(" | ").unwrap();
        let (head, wrong) = head.split_once(": ").unwrap();
        let is = format!("{:?} {}", finding.level, finding.about) == head && finding.wrong.contains(wrong) && finding.next.contains(next);
        assert!(is, "{expected} in {told:#?}");
        assert!(!finding.means.is_empty(), "{finding:?}");
    }
}

#[test]
fn where_all_is_well_nothing_is_found() {
    check(&of_parts(&world()), &[]);
    check(&of_dataset(&world(), &observed(json!({}), WELL)), &[]);
    assert!(!is_wrong(&[]));
}

#[test]
fn what_was_not_seen_leads_to_no_finding() {
    let blind = World { policies: None, pods: None, nodes: None, has_driver: None, ..world() };
    check(&of_parts(&blind), &[]);
    let mut unseen = observed(json!({}), WELL);
    (unseen.claim, unseen.volume) = (None, None);
    check(&of_dataset(&blind, &unseen), &[]);
}

#[test]
fn each_condition_is_told_with_what_to_do() {
    let table: &[(&[&str], &[&str])] = &[
        (&["Ready=False/NoNodes: no node matches"], &["Fail dataset/t: no node matches | labels and taints"]),
        (&["Ready=False/Listing: 7 keys so far", "Warm=False/NotReady: x"], &["Note dataset/t: 7 keys | wait"]),
        (
            &["Ready=False/SecretMissing: the Secret s3 isn't there", "SourceReachable=False/SecretMissing: the Secret s3 isn't there"],
            &["Fail dataset/t: the Secret s3 | make what is missing"],
        ),
        (
            &["Ready=True/Readable", "SourceReachable=False/CredentialsRefused: 403", "Degraded=True/CredentialsRefused: 403"],
            &["Warn dataset/t: 403 | credentials"],
        ),
        (&["Ready=True/WithoutCache: nothing is cached"], &["Warn dataset/t: nothing is cached | nodes.selector"]),
        (&["Ready=True/Readable", "Degraded=True/DoesNotFit: asks for 9Ti"], &["Warn dataset/t: asks for 9Ti | ask for less"]),
        (&["Ready=True/Readable", "Degraded=True/FieldsIgnored: copies.max"], &["Note dataset/t: copies.max | leave the field out"]),
        (&["Ready=True/Readable", "Degraded=True/PriorityLimited: no more than 0"], &["Note dataset/t: no more than 0 | maxPriority"]),
        (&["Ready=True/Readable", "Warm=False/OverQuota: 5Ti more"], &["Warn dataset/t: 5Ti more | do what the message says"]),
        (&["Ready=True/Readable", "Warm=False/PreloadPaused: 1Gi of 2Gi"], &["Warn dataset/t: 1Gi of 2Gi | kubectl forebay preload t"]),
        (&["Ready=True/Readable", "Warm=True/NothingWanted"], &["Note dataset/t: no preload, no rule | kubectl forebay preload t"]),
        (&["Ready=True/Readable", "Synced=False/Late: older than"], &["Warn dataset/t: older than | sync.interval"]),
    ];
    for (conditions, expected) in table {
        check(&of_dataset(&world(), &observed(json!({}), conditions)), expected);
    }
}

#[test]
fn a_spec_that_nobody_follows_is_told() {
    let mut old = observed(json!({}), WELL);
    let dataset = old.dataset.as_mut().unwrap();
    dataset.metadata.generation = Some(2);
    check(&of_dataset(&world(), &old), &["Warn dataset/t: last change | operator"]);
    let mut unknown = observed(json!({}), &[]);
    unknown.claim = Some(None);
    check(&of_dataset(&world(), &unknown), &["Fail dataset/t: no status | operator"]);
    unknown.dataset.as_mut().unwrap().metadata.creation_timestamp = Some(from(json!(NOW)));
    check(&of_dataset(&world(), &unknown), &["Note dataset/t: no status | wait"]);
}

#[test]
fn parts_that_do_not_run_are_told_with_the_reason_of_kubelet() {
    let with = |pods: Vec<Pod>| World { pods: Some(pods), ..world() };
    let well = |name: &str| part(name, name, true, json!({}));
    let state = |state: Value, last: Value| json!({ "containerStatuses": [{ "name": "c", "ready": false, "restartCount": 1, "image": "", "imageID": "", "state": state, "lastState": last }] });
    let crash =
        state(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } }));
    let pull = state(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } }), json!({}));
    let table = [
        (vec![well("csi"), well("node")], vec!["Fail the operator: no pod of it | --forebay-namespace"]),
        (
            vec![part("operator", "operator", false, crash), well("csi"), well("node")],
            vec!["Fail pod/operator: CrashLoopBackOff; it ended with OOMKilled | logs --all-containers operator"],
        ),
        (
            vec![well("operator"), part("csi", "csi", false, pull), well("node")],
            vec!["Warn pod/csi: ImagePullBackOff: no such image | kubectl -n forebay-system logs"],
        ),
        (vec![well("operator"), well("node")], vec!["Note the CSI driver: doesn't run on n1 | csi.tolerations"]),
    ];
    for (pods, expected) in table {
        check(&of_parts(&with(pods)), &expected);
    }
    check(&of_parts(&World { has_driver: Some(false), ..world() }), &["Fail csidriver/csi.forebay.dev: isn't there | chart"]);
    check(&of_parts(&World { policies: Some(Vec::new()), ..world() }), &["Fail cachepolicies: there is none | defaultPolicy"]);
    check(
        &of_parts(&World { nodes: Some(vec![node("n1", "6.8.0-31-generic")]), ..world() }),
        &["Note kernels: n1 (6.8.0-31-generic) | 6.9"],
    );
    let unscheduled = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no room" }] });
    let lame = with(vec![well("operator"), well("csi"), part("node", "node", false, unscheduled)]);
    check(&of_dataset(&lame, &observed(json!({}), WELL)), &["Warn pod/node: not scheduled: no room | describe pod node"]);
}

#[test]
fn a_policy_without_nodes_is_trouble_only_where_it_is_used() {
    for (datasets, expected) in
        [(1, "Warn cachepolicy/default: no node matches | labels"), (0, "Note cachepolicy/default: no node matches | labels")]
    {
        let mut world = world();
        let condition =
            json!({ "type": "Ready", "status": "False", "reason": "NoNodes", "message": "no node matches", "lastTransitionTime": BEFORE });
        world.policies.as_mut().unwrap()[0].status = Some(from(json!({ "datasets": datasets, "conditions": [condition] })));
        check(&of_parts(&world), &[expected]);
    }
}

#[test]
fn who_holds_least_is_told_with_what_keeps_it() {
    let report = |dataset: Value, tiers: Value| -> Result<ReportReply, Silent> {
        Ok(from(json!({ "observed": { "datasets": [dataset], "tiers": tiers } })))
    };
    let lacking = |status: Value| json!({ "uid": "u1", "wantedBytes": 4096, "wantedHeldBytes": 1024, "status": status });
    let filling = observed(
        json!({ "preload": { "when": "Once", "maxBytesPerSecond": "1Mi" } }),
        &["Ready=True/Readable", "Warm=False/Filling: 1Ki of 4Ki are held"],
    );
    let common = "Note dataset/t: 1Ki of 4Ki | --watch";
    let limit = "Note dataset/t: maxBytesPerSecond is 1Mi | --max-bytes-per-second";
    let table = [
        (
            report(lacking(json!({ "preload": { "state": 1, "bytesPerSecond": 1024 } })), json!([])),
            "Note nodes: n1 lacks 3Ki of 4Ki: it loads 1Ki/s | log",
        ),
        (report(lacking(json!({ "preload": { "state": 3, "bytesReadThrough": 2048 } })), json!([])), "Note nodes: 2Ki don't fit | log"),
        (report(lacking(json!({})), json!([])), "Note nodes: it has no preload | log"),
    ];
    for (report, expected) in table {
        let world = World { reports: BTreeMap::from([("n1".to_owned(), report)]), ..world() };
        check(&of_dataset(&world, &filling), &[common, expected, limit]);
    }
    let worse = [
        (report(json!({ "uid": "u1", "problem": "no such bucket" }), json!([])), "Warn node/n1: no such bucket | message"),
        (
            report(json!({ "uid": "u1" }), json!([{ "path": "/c", "degraded": "the disk is full" }])),
            "Warn node/n1: the disk is full | look at /c",
        ),
        (report(json!({ "uid": "another" }), json!([])), "Warn node/n1: not told | operator's log"),
        (Err(Silent::Other("its pod doesn't run".to_owned())), "Warn node/n1: its pod doesn't run | log"),
    ];
    for (report, expected) in worse {
        let world =
            World { reports: BTreeMap::from([("n1".to_owned(), report), ("n2".to_owned(), Ok(ReportReply::default()))]), ..world() };
        check(&of_dataset(&world, &filling), &[expected, common, limit]);
    }
    let mut failed = observed(json!({}), &["Ready=True/Readable", "Warm=False/FilesFailed: 1 files could not be loaded"]);
    failed.dataset.as_mut().unwrap().status.as_mut().unwrap().failed_files = from(json!([{ "path": "/a", "reason": "gone" }]));
    failed.jobs = vec![from(json!({ "metadata": { "name": "forebay-preload-u1-0" }, "status": { "failed": 1 } }))];
    check(&of_dataset(&world(), &failed), &["Warn dataset/t: /a (gone) | preload t", "Note job/forebay-preload-u1-0: failed | logs job/"]);
}

#[test]
fn how_pods_read_is_told_by_the_nodes_that_answer_their_mounts() {
    let report = |mounted: bool, mount: Value| -> Result<ReportReply, Silent> {
        Ok(from(json!({ "observed": { "datasets": [{ "uid": "u1", "mounted": mounted, "status": { "mount": mount } }] } })))
    };
    let full = json!({ "passthrough": true, "resend": true });
    let old = json!({ "withoutPassthrough": "an old kernel" });
    let table = [
        (vec![report(true, full.clone()), report(true, full.clone())], "Note mounts: passthrough on n0, n1 | nothing"),
        (
            vec![report(true, old), report(true, full.clone())],
            "Note mounts: passthrough on n1; by the node, no resend on n0 (an old kernel) | kernel",
        ),
    ];
    let well = observed(json!({}), WELL);
    for (reports, expected) in table {
        let reports = reports.into_iter().enumerate().map(|(at, report)| (format!("n{at}"), report)).collect();
        check(&of_dataset(&World { reports, ..world() }, &well), &[expected]);
    }
    let reports = BTreeMap::from([("n0".to_owned(), report(false, full)), ("n1".to_owned(), report(true, Value::Null))]);
    check(&of_dataset(&World { reports, ..world() }, &well), &[]);
}

#[test]
fn a_mount_that_failed_is_told_by_the_newest_event_of_its_pod() {
    let mut one = observed(json!({}), WELL);
    one.pods = vec![user("reads", Some("n1"), "Running", json!({})), user("waits", Some("n1"), "Pending", json!({}))];
    check(&of_dataset(&world(), &one), &["Note pod/waits: Pending on n1 | describe pod waits"]);
    one.events = vec![
        event("waits", "FailedMount", "an old reason", BEFORE),
        event("waits", "FailedMount", "driver name csi.forebay.dev not found in the list of registered CSI drivers", NOW),
        event("waits", "BackOff", "another matter", NOW),
        event("reads", "FailedMount", "it reads by now", NOW),
    ];
    check(&of_dataset(&world(), &one), &["Fail pod/waits: registered CSI drivers (3 times) | kubeletFolder"]);
    let without = World { pods: Some(vec![part("node", "node", true, json!({}))]), ..world() };
    one.events.clear();
    check(&of_dataset(&without, &one), &["Fail pod/waits: the CSI driver doesn't run on its node n1 | csi.tolerations"]);
    let silent = World { pods: Some(vec![part("csi", "csi", true, json!({}))]), ..world() };
    check(&of_dataset(&silent, &one), &["Fail pod/waits: no cache node, not even a client, runs on n1 | client.enabled"]);
}

#[test]
fn a_pod_without_a_node_waits_for_a_reason() {
    let mut one = observed(json!({}), WELL);
    one.pods = vec![user("gated", None, "Pending", json!({ "schedulingGates": [{ "name": "forebay.dev/warm" }] }))];
    check(&of_dataset(&world(), &one), &["Note pod/gated: forebay.dev/warm | warm-timeout"]);
    one.pods = vec![user("other", None, "Pending", json!({ "schedulingGates": [{ "name": "kueue.x-k8s.io/x" }] }))];
    check(&of_dataset(&world(), &one), &["Note pod/other: somebody else | ask who"]);
    one.pods = vec![user("nowhere", None, "Pending", json!({}))];
    check(&of_dataset(&world(), &one), &["Warn pod/nowhere: Pending | describe pod nowhere"]);
}

#[test]
fn a_claim_that_is_not_what_it_should_be_is_told() {
    let claim = |value: Value| Some(Some(from::<PersistentVolumeClaim>(value)));
    let table = [
        (json!({}), Some(None), "Warn pvc/t: isn't there | operator's log"),
        (json!({}), claim(json!({ "status": { "phase": "Lost" } })), "Fail pvc/t: its volume is gone | delete the claim"),
        (json!({}), claim(json!({ "status": { "phase": "Pending" } })), "Warn pvc/t: it is Pending | describe pvc"),
        (
            json!({}),
            claim(json!({ "spec": { "volumeName": "pvc-9" }, "status": { "phase": "Bound" } })),
            "Fail pvc/t: bound to pvc-9 | rename",
        ),
    ];
    for (spec, claim, expected) in table {
        let mut one = observed(spec, WELL);
        one.claim = claim;
        check(&of_dataset(&world(), &one), &[expected]);
    }
    let mut none = observed(json!({ "volume": { "claim": "None" } }), WELL);
    none.claim = Some(None);
    check(&of_dataset(&world(), &none), &[]);
    let by_claim = json!({ "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "t" } }] });
    none.pods = vec![user("waits", None, "Running", by_claim)];
    check(&of_dataset(&world(), &none), &["Fail pvc/t: spec.volume.claim is None | Create"]);
}

#[test]
fn pods_that_name_no_dataset_are_told_of_it() {
    let mut none = Observed { namespace: "vision".to_owned(), name: "t".to_owned(), ..Observed::default() };
    none.pods = vec![user("waits", Some("n1"), "Pending", json!({}))];
    let findings = of_dataset(&world(), &none);
    check(&findings, &["Fail dataset/t: isn't there in the namespace vision | own namespace"]);
    assert!(findings[0].means.contains("waits"), "{findings:?}");
    let text = text::report("vision/t", &findings);
    assert!(text.starts_with("vision/t\nFAIL dataset/t: ") && text.contains("\n     -> "), "{text}");
    assert_eq!(text::report("a", &[]), "a: nothing wrong\n");
}

#[test]
fn what_fails_is_told_first() {
    let mut one = observed(json!({}), &["Ready=True/Readable", "Warm=True/NothingWanted", "Degraded=True/NodesMissing: 1 of 2"]);
    one.claim = Some(Some(from(json!({ "status": { "phase": "Lost" } }))));
    let findings = of_dataset(&world(), &one);
    check(&findings, &["Fail pvc/t: gone | delete", "Warn dataset/t: 1 of 2 | cache nodes", "Note dataset/t: no preload | preload"]);
    assert!(is_wrong(&findings) && !is_wrong(&findings[2..]));
}
