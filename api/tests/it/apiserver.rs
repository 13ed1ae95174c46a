//! What a real API server answers: to good objects, to nonsense, to changes.
//! Needs KUBECONFIG_ENVTEST, the kubeconfig of a server to spoil, and `kubectl` in PATH: `make test-crds` gives both.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

mod bad_datasets;
mod bad_policies;
mod changes;

/// A server that has our kinds.
struct Server {
    kubeconfig: String,
}

struct Answer {
    good: bool,
    out: String,
    err: String,
}

impl Server {
    /// The server of this run, with the kinds installed; `None`, loudly, where there is none and need not be.
    fn get() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            let kubeconfig = std::env::var("KUBECONFIG_ENVTEST").ok().filter(|path| !path.is_empty())?;
            let server = Server { kubeconfig };
            server.install();
            Some(server)
        });
        if server.is_none() {
            let must = ["CI", "FOREBAY_MUST_MOUNT"].into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
            assert!(must.is_none(), "{must:?} is set, so this test must run; it needs KUBECONFIG_ENVTEST: run `make test-crds`");
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            // Past the harness, which shows what a test prints only when it fails.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: needs KUBECONFIG_ENVTEST: run `make test-crds`");
        }
        server.as_ref()
    }

    fn install(&self) {
        for file in forebay_api::generated::files().iter().filter(|file| file.path.starts_with("crds/")) {
            let answer = self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &file.text);
            assert!(answer.good, "{}: {}", file.path, answer.err);
            assert!(!answer.err.contains("Warning"), "{}: {}", file.path, answer.err);
        }
        for name in ["datasets.forebay.dev", "cachepolicies.forebay.dev"] {
            let answer = self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &format!("crd/{name}")], "");
            assert!(answer.good, "{name}: {}", answer.err);
            let answer = self.kubectl(&["get", "crd", name, "-o", "json"], "");
            assert!(!answer.out.contains("NonStructuralSchema"), "{}", answer.out);
        }
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Answer {
        let mut child = Command::new("kubectl")
            .env("KUBECONFIG", &self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is in PATH");
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Answer { good: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What the server says to each object, by name: nothing where it would take it.
    fn refusals(&self, verb: &str, objects: &[Value]) -> BTreeMap<String, String> {
        let input: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
        let answer = self.kubectl(&[verb, "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"], &input);
        let mut refusals = BTreeMap::new();
        for object in objects {
            let name = object["metadata"]["name"].as_str().unwrap();
            // One line for each object, with all that is wrong with it.
            let mark = format!("\"{name}\" is invalid: ");
            if let Some(at) = answer.err.find(&mark) {
                let text = &answer.err[at + mark.len()..];
                refusals.insert(name.to_owned(), text.lines().next().unwrap_or_default().to_owned());
            } else if !answer.out.lines().any(|line| line.ends_with(&format!("/{name}"))) {
                panic!("{name} was neither taken nor refused: {}", answer.err);
            }
        }
        refusals
    }

    /// Each of `cases` must be refused at its field with its sentence.
    fn check_refused(&self, kind: &str, cases: Vec<(Value, &str, &str)>) {
        let object = |(at, (spec, _, _)): (usize, &(Value, &str, &str))| self::object(kind, &format!("case-{at}"), spec);
        let objects: Vec<Value> = cases.iter().enumerate().map(object).collect();
        let refusals = self.refusals("create", &objects);
        let mut wrong = String::new();
        for (at, (spec, field, message)) in cases.iter().enumerate() {
            let got = refusals.get(&format!("case-{at}")).map_or("it was taken", String::as_str);
            if !(got.contains(&format!("{field}: ")) && got.contains(message)) {
                wrong.push_str(&format!("for {spec}\n  got:      {got}\n  expected: {field}: ... {message}\n"));
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let mut object = json!({ "apiVersion": "forebay.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    if kind == "Dataset" {
        object["metadata"]["namespace"] = json!("default");
    }
    object
}

#[test]
fn good_objects_are_taken() {
    let Some(server) = Server::get() else { return };
    let datasets = [
        json!({ "source": "s3://imagenet/train/" }),
        json!({ "source": "s3://imagenet", "secretRef": { "name": "s3-credentials" }, "preload": { "when": "Once" } }),
        json!({ "source": "file:///mnt/nfs/labels" }),
        // What a template leaves empty is as if it weren't there.
        json!({ "source": "s3://abc", "eviction": null, "preload": null, "rules": [] }),
        json!({ "source": "s3://abc", "quota": "10Ti", "priority": 1000 }),
        json!({ "source": "s3://abc", "quota": 1_000_000, "priority": -1000 }),
        json!({ "source": "s3://abc", "rules": [{ "path": "/a", "cache": "Pin", "maxBytes": 1_000_000 }, { "path": "/b", "cache": "Pin", "maxBytes": "1.5Ti" }] }),
        json!({ "source": "s3://abc", "rules": [{ "path": "/a/b", "maxBytes": "1Gi" }, { "path": "/a", "cache": "Pin" }] }),
        json!({ "source": "s3://abc", "rules": [{ "path": "/", "ttl": "1h30m" }, { "path": "/a", "ttl": "1500ms" }, { "path": "/b", "ttl": "1m" }, { "path": "/..b", "ttl": "100d" }] }),
        json!({ "source": "s3://abc", "permissions": { "uid": 1000, "gid": 0, "fileMode": "440", "directoryMode": "00550" } }),
        json!({ "source": "s3://abc", "sync": { "mode": "Never" }, "volume": { "claim": "None" }, "verify": "Strict" }),
        json!({ "source": "s3://abc", "s3": { "endpoint": "https://[::1]:9000/", "roleARN": "", "anonymous": true, "caBundleRef": { "name": "a.b" } } }),
        json!({ "sources": [{ "path": "/a", "uri": "s3://abc" }, { "path": "/ab", "uri": "s3://abc" }, { "path": "/b", "uri": "file:///x" }] }),
    ];
    let policies = [
        json!({ "tiers": [{ "type": "Disk", "paths": ["/var/lib/forebay"], "capacity": "20%" }] }),
        json!({
            "default": true,
            "nodes": { "selector": { "nodeSelectorTerms": [] }, "tolerations": [], "topologyKey": "" },
            "tiers": [{ "type": "Memory", "capacity": "32Gi" }, { "type": "Disk", "paths": ["/mnt/nvme*/forebay"], "capacity": "90%", "keepFreePercent": 15 }],
            "source": { "maxBytesPerSecond": "40Gi", "maxRequestsPerSecond": 3500 },
            "maxPriority": 100,
            "allowedNamespaces": { "from": "All" },
            "allowedSources": ["s3://*", "file:///mnt/*", "https://minio.corp:9000"],
            "ambientCredentials": "Deny"
        }),
        json!({ "tiers": [{ "type": "Memory", "capacity": 1_000_000_000 }], "allowedNamespaces": { "from": "Selector", "selector": { "matchLabels": { "a": "b" } } } }),
    ];
    for (kind, specs) in [("Dataset", &datasets[..]), ("CachePolicy", &policies[..])] {
        let objects: Vec<Value> = specs.iter().enumerate().map(|(at, spec)| object(kind, &format!("good-{at}"), spec)).collect();
        assert_eq!(server.refusals("create", &objects), BTreeMap::new());
    }
}

/// Those for a cluster, as a user applies them.
#[test]
fn examples_are_taken() {
    let Some(server) = Server::get() else { return };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kubernetes");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let answer = server.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", path.to_str().unwrap()], "");
        assert!(answer.good && !answer.err.contains("Warning"), "{}: {}", path.display(), answer.err);
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} examples were found");
}

#[test]
fn nonsense_in_a_dataset_is_refused_with_a_cure() {
    let Some(server) = Server::get() else { return };
    server.check_refused("Dataset", bad_datasets::cases());
}

#[test]
fn nonsense_in_a_policy_is_refused_with_a_cure() {
    let Some(server) = Server::get() else { return };
    server.check_refused("CachePolicy", bad_policies::cases());
}

#[test]
fn names_that_become_labels_are_labels() {
    let Some(server) = Server::get() else { return };
    let long = "a".repeat(64);
    let objects: Vec<Value> = ["a.b", &long].map(|name| object("Dataset", name, &json!({ "source": "s3://abc" }))).to_vec();
    let refusals = server.refusals("create", &objects);
    for name in ["a.b", &long] {
        assert!(refusals[name].contains("at most 63 of a-z"), "{refusals:?}");
    }
}

#[test]
fn a_refusal_repeats_no_credential() {
    let Some(server) = Server::get() else { return };
    let canary = "AKIACANARY0123456789";
    let specs = [
        json!({ "source": format!("s3://{canary}:{canary}@abc/") }),
        json!({ "sources": [{ "path": "/a", "uri": format!("s3://{canary}:{canary}@abc/") }] }),
        json!({ "source": "s3://abc", "s3": { "endpoint": format!("https://{canary}:{canary}@host") } }),
        json!({ "source": "s3://abc", "secretRef": { "name": canary } }),
    ];
    let objects: Vec<Value> = specs.iter().enumerate().map(|(at, spec)| object("Dataset", &format!("canary-{at}"), spec)).collect();
    let refusals = server.refusals("create", &objects);
    assert_eq!(refusals.len(), specs.len(), "{refusals:?}");
    assert!(!format!("{refusals:?}").contains("CANARY"), "{refusals:?}");
}
