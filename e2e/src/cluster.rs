//! `kubectl` and `helm`. The cluster is the one that KUBECONFIG names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::wait_for;

/// Namespace of the release.
pub const SYSTEM: &str = "forebay-system";
const RELEASE: &str = "forebay";

/// Runs a program and gives its output; a failure names the command and what it said.
pub fn run(mut command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("start {shown}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{shown}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

pub fn kubectl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("kubectl");
    command.args(arguments);
    run(command)
}

/// Runs `kubectl forebay` as kubectl finds it, with the plugin of this build in the PATH: its exit code and output. `kubeconfig` other than the tests' own is
/// that of somebody else.
pub fn forebay(kubeconfig: Option<&Path>, arguments: &[&str]) -> Result<(i32, String)> {
    let folder = std::env::var("FOREBAY_RELEASE").context("FOREBAY_RELEASE names the folder that has the programs")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("kubectl");
    command.arg("forebay").args(arguments).env("PATH", format!("{folder}:{path}"));
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    let output = command.output().context("start kubectl forebay")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("$ kubectl forebay {}\n{text}", arguments.join(" "));
    Ok((output.status.code().context("it ended by a signal")?, text))
}

/// Applies YAML, as a user would from a file.
pub fn apply(namespace: &str, yaml: &str) -> Result<()> {
    kubectl_with(&["-n", namespace, "apply", "-f", "-"], yaml).map(drop).map_err(|error| anyhow!("{error:#}\n{yaml}"))
}

/// Runs kubectl with this as its input. A failure tells what kubectl said, and nothing of the input.
pub fn kubectl_with(arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start kubectl")?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An object as JSON; `None` when it isn't there.
pub fn get(namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
    let text = kubectl(&["-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found"])?;
    if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
}

pub fn list(namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>> {
    let text = kubectl(&["-n", namespace, "get", kind, "-l", selector, "-o", "json"])?;
    let found: Value = serde_json::from_str(&text)?;
    Ok(found["items"].as_array().cloned().unwrap_or_default())
}

pub fn patch(namespace: &str, kind: &str, name: &str, merge: &str) -> Result<()> {
    kubectl(&["-n", namespace, "patch", kind, name, "--type=merge", "-p", merge]).map(drop)
}

/// Status, reason and message of a condition.
pub fn condition(object: &Value, kind: &str) -> Option<(String, String, String)> {
    let found = object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?;
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits for a condition of a Dataset.
pub fn wait_condition(namespace: &str, dataset: &str, kind: &str, status: &str, within: Duration) -> Result<Value> {
    let mut last = None;
    let found = wait_for(&format!("{kind}={status} of dataset {namespace}/{dataset}"), within, || {
        let object = get(namespace, "dataset", dataset)?;
        let is = object.as_ref().and_then(|object| condition(object, kind)).is_some_and(|(found, _, _)| found == status);
        last.clone_from(&object);
        Ok(object.filter(|_| is))
    });
    found.with_context(|| format!("it was {:#}", last.map(|object| object["status"].clone()).unwrap_or_default()))
}

/// A namespace for one test. Its removal begins at the test's end; `wait_namespaces_gone` waits for that of all.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new(name: &str) -> Result<Self> {
        kubectl(&["create", "namespace", name])?;
        let namespace = Self(name.to_owned());
        // Pods are refused until a controller has made it.
        wait_for("the namespace's service account", Duration::from_secs(60), || get(name, "serviceaccount", "default"))?;
        Ok(namespace)
    }

    /// The keys of the test's own S3 server, in the secret `s3`.
    pub fn with_credentials(name: &str) -> Result<Self> {
        let namespace = Self::new(name)?;
        let (id, key) = crate::bucket::CREDENTIALS;
        let (id, key) = (format!("--from-literal=AWS_ACCESS_KEY_ID={id}"), format!("--from-literal=AWS_SECRET_ACCESS_KEY={key}"));
        kubectl(&["-n", name, "create", "secret", "generic", "s3", &id, &key])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not waited for: half of a test's time would be the namespace controller's. What fails here is seen by the tests of the end.
        drop(kubectl(&["delete", "namespace", &self.0, "--wait=false"]));
    }
}

/// Waits until no namespace of a test is left that isn't in `kept`: nothing in them may hang.
pub fn wait_namespaces_gone(kept: &[&str]) -> Result<()> {
    wait_for("the tests' namespaces to be gone", Duration::from_secs(180), || {
        let left = kubectl(&["get", "namespaces", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.phase}{\"\\n\"}{end}"])?;
        let left: Vec<&str> =
            left.lines().filter_map(|line| line.strip_suffix(" Terminating")).filter(|name| !kept.contains(name)).collect();
        ensure!(left.is_empty(), "{}", left.join(", "));
        Ok(Some(()))
    })
}

/// The repository's root.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Installs or upgrades the chart with the images of this build; `values` as `--set` takes them.
pub fn helm_install(values: &[&str]) -> Result<()> {
    helm_upgrade_to("e2e", values)
}

/// The same with the images of another tag.
pub fn helm_upgrade_to(tag: &str, values: &[&str]) -> Result<()> {
    let mut command = Command::new("helm");
    command.args(["upgrade", "--install", RELEASE]).arg(top().join("charts/forebay"));
    command.args(["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "180s"]);
    for value in ["images.registry=localhost", "images.pullPolicy=Never"].iter().chain(values) {
        command.args(["--set", value]);
    }
    for image in ["operator", "node", "csi"] {
        command.arg("--set").arg(format!("images.{image}.tag={tag}"));
    }
    run(command).map(drop)
}

pub fn helm_uninstall() -> Result<()> {
    let mut command = Command::new("helm");
    command.args(["uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "180s"]);
    run(command).map(drop)
}

/// Pods of the release that a label selects, on `node` or on any.
pub fn system_pods(component: &str, node: Option<&str>) -> Result<Vec<Value>> {
    let mut pods = list(SYSTEM, "pods", &format!("app.kubernetes.io/component={component}"))?;
    pods.retain(|pod| node.is_none_or(|node| pod["spec"]["nodeName"] == node));
    Ok(pods)
}

/// Runs a script of `e2e/cluster`: its output.
pub fn harness(script: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(top().join("e2e/cluster").join(script));
    command.args(arguments);
    run(command)
}

/// Runs a command on a node of the test cluster, outside of every container.
pub fn on_node(node: &str, command: &[&str]) -> Result<String> {
    let number = node.strip_prefix("node").with_context(|| format!("{node} is no node of the test cluster"))?;
    harness("node.sh", &[&["exec", number], command].concat())
}

/// Kills a program on a node of the test cluster, as nobody warned of: by its name, from outside of every container; `one|other` kills both at once.
pub fn kill_on(node: &str, program: &str) -> Result<()> {
    on_node(node, &["pkill", "-KILL", "-x", program]).map(drop).with_context(|| format!("kill {program} on {node}"))
}
