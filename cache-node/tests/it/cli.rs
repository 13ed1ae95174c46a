//! The real program against a real S3 server: each thing that can be wrong has its message and its exit code.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

use forebay_mounter::device;
use tempfile::TempDir;

use crate::fuse::can_mount;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};

pub(crate) struct Shell {
    folder: TempDir,
    pub(crate) server: S3Server,
}

impl Shell {
    /// A bucket, the secret `s3` for it, an empty folder `data`.
    pub(crate) async fn new() -> Self {
        let shell = Self { folder: TempDir::new().unwrap(), server: S3Server::start("bucket").await };
        fs::create_dir(shell.path("data")).unwrap();
        shell.secret("s3", SECRET_KEY);
        shell.write("node.yaml", &shell.node(""));
        shell.dataset("dataset.yaml", "bucket", "s3");
        shell
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }
    /// The node's file. Its cache takes no heed of how full this machine's disk is.
    pub(crate) fn node(&self, rest: &str) -> String {
        let (secrets, cache) = (self.path("secrets"), self.path("cache"));
        format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: NodeConfig\nsecrets: {}\ntiers: [{{ path: \"{}\", capacity: 1Gi, keepFreePercent: 0 }}]\n{rest}",
            secrets.display(),
            cache.display()
        )
    }
    fn secret(&self, name: &str, value: &str) {
        let folder = self.path("secrets").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("AWS_ACCESS_KEY_ID"), ACCESS_KEY).unwrap();
        fs::write(folder.join("AWS_SECRET_ACCESS_KEY"), value).unwrap();
    }
    fn dataset(&self, file: &str, bucket: &str, secret: &str) {
        self.dataset_at(file, bucket, secret, &self.server.endpoint());
    }
    fn dataset_at(&self, file: &str, bucket: &str, secret: &str, endpoint: &str) {
        let spec = format!("  source: s3://{bucket}/\n  secretRef: {{ name: {secret} }}\n  s3: {{ endpoint: \"{endpoint}\" }}\n");
        self.write(file, &format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t }}\nspec:\n{spec}"));
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-node"));
        command.env_clear().env("FOREBAY_RUN", self.path("run")).env("HOME", self.path("home"));
        command.current_dir(self.path(".")).args(arguments);
        command
    }
    /// Beside the server, which runs in this process.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
    pub(crate) async fn good(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }
    /// Ends with `code` and says `words`, all of them, on standard error, and nothing else there is longer than a line.
    async fn wrong(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.run(arguments).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: `{word}` in: {text}");
        }
        assert!(!text.contains(SECRET_KEY) && !text.contains("panicked"), "{text}");
    }
    async fn mount_is_wrong(&self, dataset: &str, code: i32, words: &[&str]) {
        self.wrong(&["mount", dataset, "data", "--config", "node.yaml", "--cache-dir", "cache"], code, words).await;
        assert!(!device::is_mounted(&self.path("data")), "a mount was left behind");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if device::is_mounted(&self.path("data")) {
            drop(self.command(&["unmount", "data"]).output());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_source_has_its_message_and_code() {
    let shell = Shell::new().await;
    shell.dataset("missing.yaml", "absent", "s3");
    shell.mount_is_wrong("missing.yaml", 66, &["s3://absent/", "there is no bucket absent", "check the name"]).await;

    shell.secret("wrong", "not-the-secret");
    shell.dataset("refused.yaml", "bucket", "wrong");
    shell.mount_is_wrong("refused.yaml", 77, &["s3://bucket/", "refused", "secret key does not belong"]).await;

    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    shell.dataset_at("away.yaml", "bucket", "s3", &format!("http://{closed}"));
    shell.mount_is_wrong("away.yaml", 69, &[&closed.to_string(), "check the network"]).await;

    shell.dataset("nosecret.yaml", "bucket", "none");
    shell.mount_is_wrong("nosecret.yaml", 64, &["secret", "secrets/none"]).await;

    let unknown = "AWS_SECRET_ACCESS_KEY";
    fs::create_dir_all(shell.path("secrets/half")).unwrap();
    fs::write(shell.path("secrets/half/AWS_ACCESS_KEY_ID"), "AKIA").unwrap();
    shell.dataset("half.yaml", "bucket", "half");
    shell.mount_is_wrong("half.yaml", 64, &["lacks", unknown]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_what_a_mount_would_say_with_the_cure() {
    let shell = Shell::new().await;
    shell.server.put("bucket", "a", b"12345");
    let doctor = |dataset: &'static str| {
        let shell = &shell;
        async move {
            let arguments = ["doctor", dataset, "--config", "node.yaml", "--cache-dir", "cache", "-o", "json"];
            let output = shell.run(&arguments).await;
            let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            (output.status.code().unwrap(), findings)
        }
    };
    let find = |findings: &serde_json::Value, check: &str| {
        findings.as_array().unwrap().iter().find(|finding| finding["check"] == check).cloned().unwrap_or_default()
    };
    let (_, findings) = doctor("dataset.yaml").await;
    for check in ["fuse device", "kernel", "rights", "memory", "cache folder", "source", "size"] {
        assert!(find(&findings, check)["level"].is_string(), "{check} in {findings}");
    }
    assert_eq!(find(&findings, "source")["level"], "OK");
    shell.secret("wrong", "not-the-secret");
    shell.dataset("refused.yaml", "bucket", "wrong");
    let (code, findings) = doctor("refused.yaml").await;
    assert_eq!((code, &find(&findings, "source")["level"]), (1, &"FAIL".into()));
    assert!(find(&findings, "source")["cure"].as_str().unwrap().contains("credentials"), "{findings}");
    // A cache that is smaller than the data set.
    shell.write("node.yaml", &shell.node("").replace("capacity: 1Gi", "capacity: 4"));
    let arguments = ["doctor", "dataset.yaml", "--config", "node.yaml", "-o", "json"];
    let findings: serde_json::Value = serde_json::from_slice(&shell.run(&arguments).await.stdout).unwrap();
    assert_eq!(find(&findings, "size")["level"], "WARN", "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_folders_has_its_message_and_code() {
    let shell = Shell::new().await;
    let on = |mount_point: &'static str, cache: &'static str| {
        ["mount", "dataset.yaml", mount_point, "--config", "node.yaml", "--cache-dir", cache]
    };
    fs::create_dir(shell.path("full")).unwrap();
    shell.write("full/file", "");
    shell.write("file", "");
    shell.wrong(&on("nowhere", "cache"), 73, &["there is no such folder", "mkdir -p nowhere"]).await;
    shell.wrong(&on("full", "cache"), 73, &["it is not empty"]).await;
    shell.wrong(&on("file", "cache"), 73, &["it is no folder"]).await;
    // Root may write anywhere, but not into a file or into /proc.
    shell.wrong(&on("data", "file"), 73, &["write into the cache folder", "--cache-dir"]).await;
    shell.wrong(&on("data", "/proc/forebay"), 73, &["write into the cache folder /proc/forebay"]).await;
    shell.wrong(&["mount", "nothing.yaml", "data"], 64, &["nothing.yaml", "check the path"]).await;
    shell.wrong(&["mount", "dataset.yaml", "data", "--config", "nothing.yaml"], 64, &["nothing.yaml", "check the path"]).await;
    shell.wrong(&["status", "data"], 66, &["data"]).await;
    shell.wrong(&["unmount", "data"], 66, &["data"]).await;
    shell.wrong(&["preload", "data"], 66, &["data"]).await;
    shell.wrong(&["mound"], 64, &["mount"]).await;
    shell.wrong(&["log-level", "data", "forebay=loud"], 64, &["log directives"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_bucket_is_an_empty_folder_and_what_is_taken_is_told() {
    if !can_mount() {
        return;
    }
    let shell = Shell::new().await;
    shell.good(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "cache"]).await;
    assert_eq!(fs::read_dir(shell.path("data")).unwrap().count(), 0);
    let status = String::from_utf8(shell.good(&["status", "data"]).await.stdout).unwrap();
    assert!(status.contains("default/t on") && status.contains("s3://bucket/"), "{status}");
    // The same mount point, and the same cache under another one.
    shell.wrong(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "other"], 75, &["unmount it first"]).await;
    fs::create_dir(shell.path("data2")).unwrap();
    let second = ["mount", "dataset.yaml", "data2", "--config", "node.yaml", "--cache-dir", "cache"];
    shell.wrong(&second, 75, &["in use by pid", "give this one another folder"]).await;
    assert!(!device::is_mounted(&shell.path("data2")));
    shell.wrong(&["preload", "data", "/none"], 66, &["/none"]).await;
    shell.wrong(&["free", "data", "/none"], 66, &["/none"]).await;
    let open = fs::File::open(shell.path("data")).unwrap();
    shell.wrong(&["unmount", "data"], 75, &["in use", &std::process::id().to_string()]).await;
    drop(open);
    shell.good(&["unmount", "data"]).await;
    assert!(!device::is_mounted(&shell.path("data")));
}

/// Each row of the table that `wire` is tested with, through the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_with_each_field_wrong_ends_with_64_and_names_it() {
    let shell = Shell::new().await;
    let rows = include!("../../../wire/src/dataset_spec/tests/wrong.rs");
    assert!(rows.len() > 50);
    for (spec, expected) in rows {
        shell.write("wrong.yaml", &format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t }}\nspec:\n{spec}"));
        shell.mount_is_wrong("wrong.yaml", 64, &[&format!("wrong.yaml: {expected}")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn preload_ends_counts_lists_what_failed_and_pauses() {
    if !can_mount() {
        return;
    }
    let shell = Shell::new().await;
    for file in 0..20 {
        shell.server.put("bucket", &format!("f{file}"), &vec![file; 100_000]);
    }
    let refused = shell.path("data");
    shell.good(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "cache"]).await;
    shell.good(&["refresh", "data"]).await;
    // What is listed and gone fails, also when it is tried again.
    fs::remove_file(shell.server.path("bucket", "f7")).unwrap();
    let output = shell.run(&["preload", "data"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("19 of 20 files") && text.contains("1 failed") && text.contains("failed /f7: "), "{text}");
    shell.good(&["refresh", "data"]).await;
    let text = String::from_utf8(shell.good(&["preload", "data"]).await.stdout).unwrap();
    assert!(text.contains("is done: 19 of 19 files, 1.81 MiB of 1.81 MiB") && text.contains("0 failed"), "{text}");
    let json = String::from_utf8(shell.good(&["preload", "data", "-o", "json"]).await.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&last["state"], &last["filesDone"], &last["bytesTotal"]), (&"Done".into(), &19.into(), &1_900_000.into()));
    assert_eq!(fs::read(refused.join("f3")).unwrap(), vec![3; 100_000]);

    // A load at 100 kB a second is paused, and goes on.
    shell.good(&["unmount", "data"]).await;
    shell.write("node.yaml", &shell.node("source: { maxBytesPerSecond: 100Ki }\n"));
    shell.good(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "cold"]).await;
    shell.good(&["refresh", "data"]).await;
    let mut slow = shell.command(&["preload", "data"]);
    let slow = tokio::task::spawn_blocking(move || slow.output().unwrap());
    loop {
        let status: serde_json::Value = serde_json::from_slice(&shell.good(&["status", "data", "-o", "json"]).await.stdout).unwrap();
        let preload = &status[0]["node"]["datasets"][0]["preload"];
        assert_ne!(preload["state"], "Done", "it was too fast to be paused");
        if preload["state"] == "Running" {
            break;
        }
    }
    shell.good(&["preload", "data", "--pause"]).await;
    let output = slow.await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(75) && text.contains("was paused"), "{output:?}");
    let status = String::from_utf8(shell.good(&["status", "data"]).await.stdout).unwrap();
    assert!(status.contains("preload   is paused"), "{status}");
    shell.good(&["unmount", "data"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preload_tells_what_the_cache_would_not_keep() {
    if !can_mount() {
        return;
    }
    let shell = Shell::new().await;
    for file in 0..80 {
        shell.server.put("bucket", &format!("f{file}"), &vec![file; 50_000]);
    }
    shell.write("node.yaml", &shell.node("blockSize: 64Ki\n").replace("capacity: 1Gi", "capacity: 2Mi"));
    shell.good(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "cache"]).await;
    shell.good(&["refresh", "data"]).await;
    let json = String::from_utf8(shell.good(&["preload", "data", "-o", "json"]).await.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    let figure = |name: &str| last[name].as_u64().unwrap();
    assert_eq!((&last["state"], figure("filesDone")), (&"Done".into(), figure("filesTotal")));
    assert!(figure("filesReadThrough") >= 30, "{last}");
    assert_eq!(figure("filesTotal") + figure("filesReadThrough"), 80, "{last}");
    assert_eq!((figure("bytesDone"), figure("bytesTotal")), (figure("filesDone") * 50_000, figure("filesTotal") * 50_000), "{last}");
    assert_eq!(figure("bytesReadThrough"), figure("filesReadThrough") * 50_000, "{last}");
    let told = format!("{} files and ", figure("filesReadThrough"));
    let preload = String::from_utf8(shell.good(&["preload", "data"]).await.stdout).unwrap();
    let status = String::from_utf8(shell.good(&["status", "data"]).await.stdout).unwrap();
    for text in [preload, status] {
        assert!(text.contains(&told) && text.contains("left to the source: the cache would not keep them"), "{text}");
    }
    shell.good(&["unmount", "data"]).await;
}
