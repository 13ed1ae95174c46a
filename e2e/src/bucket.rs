//! A bucket on a real S3 server that runs beside the cluster, and what is in it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::run;
use crate::{http_get, wait_for};

/// Key id and secret of the server.
pub const CREDENTIALS: (&str, &str) = ("forebay", "forebay-loopback-only");
/// The machine as the cluster's nodes and pods see it.
pub const MACHINE: &str = "10.213.0.1";

/// One server with one bucket, `data`.
pub struct Bucket {
    folder: TempDir,
    server: Child,
    pub endpoint: String,
}

impl Bucket {
    /// With `files` objects `d0/f0`, … of some tens of kilobytes, each with bytes of its own.
    pub fn with_files(files: usize) -> Result<Self> {
        Self::with_sizes((0..files).map(|file| 20_000 + file * 977 % 60_000))
    }

    /// The same with an object for each of these sizes, in bytes.
    pub fn with_sizes(sizes: impl IntoIterator<Item = usize>) -> Result<Self> {
        let folder = TempDir::new()?;
        // The server reads its folder when it starts: what comes later is put.
        for (file, bytes) in sizes.into_iter().enumerate() {
            let path = folder.path().join(format!("root/data/d{}/f{file}", file % 4));
            fs::create_dir_all(path.parent().context("a key below the bucket")?)?;
            fs::write(path, contents(file, bytes))?;
        }
        let ready = folder.path().join("endpoint");
        let mut command = Command::new(program()?);
        command.arg("serve").arg(folder.path().join("root")).args(["--listen", &format!("{MACHINE}:0")]).arg("--ready").arg(&ready);
        let server = command.spawn().context("start the S3 server")?;
        let endpoint = wait_for("the S3 server", Duration::from_secs(10), || Ok(fs::read_to_string(&ready).ok()))?;
        Ok(Self { folder, server, endpoint })
    }

    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let folder = TempDir::new()?;
        let path = folder.path().join(key);
        fs::create_dir_all(path.parent().context("a key below the bucket")?)?;
        fs::write(path, bytes)?;
        let mut command = Command::new(program()?);
        command.arg("put").arg(folder.path()).args(["--endpoint", &self.endpoint, "--bucket", "data"]);
        run(command).map(drop)
    }

    /// The spec's `source` and what belongs beside it, for a Dataset in the flow form of YAML.
    pub fn source(&self) -> String {
        Self::source_at(&self.endpoint, "")
    }

    /// The same at another endpoint; `rest` goes on in `s3`.
    pub fn source_at(endpoint: &str, rest: &str) -> String {
        format!(
            "source: \"s3://data/\", secretRef: {{ name: s3 }}, s3: {{ endpoint: \"{endpoint}\", region: us-east-1, addressing: Path{rest} }}"
        )
    }

    /// Where the server listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.endpoint.trim_start_matches("http://").trim().parse().with_context(|| format!("the endpoint {}", self.endpoint))
    }

    /// Bytes of objects that the server has handed out.
    pub fn bytes_given(&self) -> Result<u64> {
        let text = http_get(self.endpoint.trim_start_matches("http://").trim(), "/_counters")?;
        let json = text.get(text.find('{').context("counters")?..=text.rfind('}').context("counters")?).context("counters")?;
        serde_json::from_str::<Value>(json)?["body_bytes"].as_u64().context("body_bytes")
    }

    /// Path below the bucket and CRC of every object, and the sum of their sizes.
    pub fn sums(&self) -> Result<(Vec<(String, u32)>, u64)> {
        let root = self.folder.path().join("root/data");
        let (mut sums, mut bytes, mut folders) = (Vec::new(), 0, vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = fs::read(&path)?;
                    bytes += content.len() as u64;
                    let name = path.strip_prefix(&root)?.display().to_string();
                    sums.push((name, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &content) as u32));
                }
            }
        }
        sums.sort();
        Ok((sums, bytes))
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn program() -> Result<PathBuf> {
    let folder = std::env::var_os("FOREBAY_RELEASE").context("FOREBAY_RELEASE names the folder that has the programs")?;
    Ok(PathBuf::from(folder).join("forebay-bench"))
}

/// Bytes that no other file has.
pub fn contents(file: usize, len: usize) -> Vec<u8> {
    let mut state = (file as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}
