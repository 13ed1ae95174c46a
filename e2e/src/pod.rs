//! Pods that read a volume as a training job would: not as root, every byte compared.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::{apply, get, kubectl};
use crate::wait_for;

/// Reads everything below /data once, and prints CRC and path of each file, by path.
const SUMS: &str = "\
import os, zlib
for folder, folders, files in os.walk('/data'):
    for name in files:
        path = os.path.join(folder, name)
        with open(path, 'rb') as file: print(zlib.crc32(file.read()), os.path.relpath(path, '/data'))
";

/// Reads everything again and again until /tmp/stop is there; says how often, how many reads failed or differed, and the longest one.
const LOAD: &str = "\
import os, sys, time, zlib, json
wanted, rounds, wrong, failed, longest = {}, 0, 0, [], 0.0
while not os.path.exists('/tmp/stop'):
    for folder, folders, files in os.walk('/data'):
        for name in files:
            path, begin = os.path.join(folder, name), time.monotonic()
            try:
                with open(path, 'rb') as file:
                    content = file.read()
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                sum = zlib.crc32(content)
                wrong += wanted.setdefault(path, sum) != sum
            except OSError as error: failed.append(f'{path}: {error}')
            longest = max(longest, time.monotonic() - begin)
    rounds += 1
print(json.dumps({'rounds': rounds, 'files': len(wanted), 'wrong': wrong, 'failed': failed[:5], 'longest': longest}))
";

/// How a pod names its volume.
pub enum Volume<'a> {
    Claim(&'a str),
    Inline(&'a str),
}

/// A pod of a test. Removed with its namespace.
pub struct Pod {
    namespace: String,
    name: String,
}

impl Pod {
    fn start(namespace: &str, name: &str, node: Option<&str>, volume: &Volume<'_>, program: &str) -> Result<Self> {
        let volume = match volume {
            Volume::Claim(claim) => format!("persistentVolumeClaim: {{ claimName: {claim} }}"),
            Volume::Inline(dataset) => {
                format!("csi: {{ driver: csi.forebay.dev, volumeAttributes: {{ dataset: {dataset} }} }}")
            }
        };
        let node = node.map(|node| format!("  nodeName: {node}\n")).unwrap_or_default();
        let program = program.replace('\n', "\n        ");
        apply(
            namespace,
            &format!(
                "apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
{node}  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  securityContext: {{ runAsUser: 1000, runAsNonRoot: true, seccompProfile: {{ type: RuntimeDefault }} }}
  containers:
    - name: reader
      image: localhost/tools:e2e
      imagePullPolicy: Never
      securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
      command: [python3, -c]
      args:
      - |
        {program}
      volumeMounts: [{{ name: data, mountPath: /data }}]
  volumes:
    - name: data
      {volume}
"
            ),
        )?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Reads everything once.
    pub fn sums(namespace: &str, name: &str, node: Option<&str>, volume: &Volume<'_>) -> Result<Self> {
        Self::start(namespace, name, node, volume, SUMS)
    }

    /// Reads everything until `finish`.
    pub fn load(namespace: &str, name: &str, node: Option<&str>, volume: &Volume<'_>) -> Result<Self> {
        Self::start(namespace, name, node, volume, LOAD)
    }

    fn object(&self) -> Result<Value> {
        get(&self.namespace, "pod", &self.name)?.with_context(|| format!("pod {} is gone", self.name))
    }

    pub fn node(&self) -> Result<String> {
        Ok(self.object()?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
    }

    pub fn wait_running(&self) -> Result<()> {
        self.wait_phase("Running")
    }

    fn wait_phase(&self, phase: &str) -> Result<()> {
        let waited = wait_for(&format!("pod {} to be {phase}", self.name), Duration::from_secs(120), || {
            let object = self.object()?;
            if object["status"]["phase"] == "Failed" && phase != "Failed" {
                bail!("pod {} failed: {}", self.name, self.log()?);
            }
            Ok((object["status"]["phase"] == phase).then_some(()))
        });
        waited.with_context(|| self.events())
    }

    /// Messages of its events, the last ones last.
    pub fn events(&self) -> String {
        let of = format!("involvedObject.name={}", self.name);
        kubectl(&[
            "-n",
            &self.namespace,
            "get",
            "events",
            "--field-selector",
            &of,
            "-o",
            "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}",
        ])
        .unwrap_or_else(|error| format!("{error:#}"))
    }

    pub fn log(&self) -> Result<String> {
        kubectl(&["-n", &self.namespace, "logs", &self.name])
    }

    /// What `sums` printed, by path.
    pub fn read(&self) -> Result<Vec<(String, u32)>> {
        self.wait_phase("Succeeded")?;
        let row = |line: &str| {
            let (sum, path) = line.split_once(' ').with_context(|| format!("`{line}` of pod {}", self.name))?;
            Ok((path.to_owned(), sum.parse()?))
        };
        let mut rows = self.log()?.lines().map(row).collect::<Result<Vec<_>>>()?;
        rows.sort();
        Ok(rows)
    }

    /// Ends a load, and checks that nothing failed: how often everything was read, and the longest read in seconds.
    pub fn finish(&self, files: usize) -> Result<(u64, f64)> {
        let result = self.end()?;
        ensure!(result["wrong"] == 0 && result["failed"].as_array().is_some_and(Vec::is_empty), "pod {}: {result}", self.name);
        ensure!(result["files"] == files, "pod {} saw {} of {files} files", self.name, result["files"]);
        Ok((result["rounds"].as_u64().unwrap_or(0), result["longest"].as_f64().unwrap_or(f64::NAN)))
    }

    /// Ends a load whose reads may have failed, and checks that none gave other bytes: some of the failures.
    pub fn finish_failed(&self) -> Result<Vec<String>> {
        let result = self.end()?;
        ensure!(result["wrong"] == 0, "pod {}: {result}", self.name);
        let failed = result["failed"].as_array().into_iter().flatten();
        Ok(failed.filter_map(|one| one.as_str().map(str::to_owned)).collect())
    }

    fn end(&self) -> Result<Value> {
        // It may end so soon that it takes the command with it, which then fails.
        let told = kubectl(&["-n", &self.namespace, "exec", &self.name, "--", "python3", "-c", "open('/tmp/stop','w')"]);
        self.wait_phase("Succeeded").with_context(|| format!("told to stop: {told:?}"))?;
        let log = self.log()?;
        serde_json::from_str(log.trim()).with_context(|| log.clone())
    }

    pub fn delete(&self) -> Result<()> {
        kubectl(&["-n", &self.namespace, "delete", "pod", &self.name, "--wait=true", "--timeout=60s"]).map(drop)
    }
}
