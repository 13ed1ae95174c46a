//! A credential that would sing: a whole life at the highest log level, and it is found nowhere.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_mounter::device;
use forebay_node::holder;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::Shell;
use crate::fuse::can_mount;
use crate::s3_server::SECRET_KEY;

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(SECRET_KEY.len()).any(|window| window == SECRET_KEY.as_bytes())
}

/// Every file below `folder` but the secret itself.
fn search(folder: &Path, found: &mut Vec<String>, files: &mut usize) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() && !path.ends_with("secrets") && !device::is_mounted(&path) {
            search(&path, found, files);
        } else if kind.is_file() {
            *files += 1;
            if holds_canary(&fs::read(&path).unwrap()) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_found_in_no_log_metric_status_argument_error_or_core() {
    if !can_mount() {
        return;
    }
    let shell = Shell::new().await;
    for file in 0..4 {
        shell.server.put("bucket", &format!("f{file}"), &vec![file; 300_000]);
    }
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    shell.write("node.yaml", &shell.node(&format!("log: {{ level: trace }}\nmetrics: {{ address: \"127.0.0.1:{port}\" }}\n")));
    let mut said = Vec::new();
    let mut say = async |arguments: &[&str], code: i32| {
        let mut command = shell.command(arguments);
        // Core files may be as large as they like here: the program itself has to refuse them.
        command.env("RUST_BACKTRACE", "full").env("RUST_LOG", "trace");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        said.extend_from_slice(&output.stdout);
        said.extend_from_slice(&output.stderr);
    };
    say(&["doctor", "dataset.yaml", "--config", "node.yaml", "--cache-dir", "cache"], 0).await;
    say(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "cache"], 0).await;
    say(&["refresh", "data"], 0).await;
    let data = shell.path("data");
    assert_eq!(fs::read(data.join("f1")).unwrap(), vec![1; 300_000]);
    fs::remove_file(shell.server.path("bucket", "f2")).unwrap();
    let path = data.join("f2");
    assert!(tokio::task::spawn_blocking(move || fs::read(path)).await.unwrap().is_err(), "its object is gone");
    for arguments in [&["status"][..], &["status", "data", "-o", "json"], &["log-level", "data", "trace"], &["free", "data", "/f1"]] {
        say(arguments, 0).await;
    }
    // The file that is gone is listed as failed.
    say(&["preload", "data"], 1).await;
    say(&["preload", "data", "/none"], 66).await;

    let mut metrics = String::new();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("forebay_source_read_requests_total"), "{metrics}");
    assert!(!holds_canary(metrics.as_bytes()));

    let run = forebay_mounter::run_folder::RunRoot::new(shell.path("run"));
    let status = holder::list(&run).unwrap().remove(0);
    let node_pid = status.node_pid.unwrap();
    for pid in [status.holder_pid, node_pid] {
        for file in ["cmdline", "environ"] {
            assert!(!holds_canary(&fs::read(format!("/proc/{pid}/{file}")).unwrap()), "{file} of {pid}");
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        // Not dumpable: the kernel gives its files to root, and a user's debugger can't attach.
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/mem")).unwrap());
        assert_eq!(owner, 0);
    }
    kill_process(Pid::from_raw(node_pid.cast_signed()).unwrap(), Signal::ABORT).unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    while !holder::list(&run).unwrap().first().is_some_and(|now| now.ready && now.node_pid.is_some_and(|pid| pid != node_pid)) {
        assert!(Instant::now() < limit, "another daemon within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fs::read(data.join("f3")).unwrap(), vec![3; 300_000]);

    let (mut found, mut files) = (Vec::new(), 0);
    search(&shell.path("."), &mut found, &mut files);
    // Dead mounts leave no files; this one's log is still there.
    let log: usize = fs::read_dir(shell.path("run/mounts")).unwrap().count();
    say(&["unmount", "data"], 0).await;
    search(&shell.path("."), &mut found, &mut files);
    assert!(files > 5 && log == 1, "{files} files were searched");
    assert!(found.is_empty(), "the secret is in {found:?}");
    assert!(said.len() > 1000 && !holds_canary(&said), "the secret was said");
}
