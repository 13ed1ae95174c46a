#![expect(clippy::unwrap_used, reason = "tests")]
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use tokio::sync::oneshot;

use super::*;

struct Fake;

fn status() -> NodeStatus {
    let dataset = DatasetStatus {
        name: "vision/imagenet".into(),
        sources: vec!["s3://imagenet/train/".into()],
        files: 7,
        manifest: ManifestStatus { version: "abc".into(), term: 1, sequence: 2, age: Some(Duration::from_millis(1500)) },
        preload: Some(PreloadProgress { state: PreloadState::Paused, files_done: 3, bytes_read_through: 5, ..PreloadProgress::default() }),
        failed_files: vec![FailedFile { path: "/a".into(), cause: "gone".into() }],
        degraded: vec!["no passthrough".into()],
        mount: Some(MountStatus { without_passthrough: "an old kernel".into(), resend: true, ..MountStatus::default() }),
        nodes: vec![NodeCoverage { node: "n1".into(), unknown: "silent".into(), held_bytes: 8, sequence: 2, ..NodeCoverage::default() }],
        ..DatasetStatus::default()
    };
    let tier = TierStatus { path: "/c".into(), capacity_bytes: 9, too_small: "by half".into(), ..TierStatus::default() };
    let peer = PeerStatus { name: "n2".into(), address: "10.0.0.2:7071".into(), bypassed: true };
    NodeStatus {
        version: "1".into(),
        pid: 42,
        uptime: Duration::from_secs(3),
        datasets: vec![dataset],
        tiers: vec![tier],
        peers: vec![peer],
    }
}

#[async_trait]
impl Control for Fake {
    async fn status(&self, _: Scope) -> NodeStatus {
        status()
    }
    async fn preload(&self, order: PreloadOrder) -> Result<BoxStream<'static, PreloadProgress>, ControlError> {
        let paths = order.paths;
        let steps = (0..=paths.len() as u64).map(|files_done| PreloadProgress { files_done, ..PreloadProgress::default() });
        Ok(stream::iter(steps.collect::<Vec<_>>()).boxed())
    }
    async fn pause_preload(&self) -> Result<(), ControlError> {
        Err(ControlError::Failed { op: "pause the preload", detail: "no data set is served".into() })
    }
    async fn free(&self, paths: Vec<String>) -> Result<Freed, ControlError> {
        match paths.first() {
            Some(path) if path == "/gone" => Err(ControlError::NotFound { path: path.clone() }),
            _ => Ok(Freed { files: 1, bytes: 2 }),
        }
    }
    async fn drain(&self) -> Result<BoxStream<'static, DrainProgress>, ControlError> {
        let step = |moved: u64| DrainProgress { blocks: 3, moved, moved_bytes: moved * 10, left: 1, done: moved == 2 };
        Ok(stream::iter([step(1), step(2)]).boxed())
    }
    async fn refresh(&self) -> Result<(), ControlError> {
        Err(ControlError::Failed { op: "list", detail: "refused".into() })
    }
    async fn set_log_level(&self, _: &str) -> Result<(), ControlError> {
        Ok(())
    }
}

#[tokio::test]
async fn every_answer_crosses_the_socket_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    assert!(matches!(Client::connect(&socket).await, Err(ClientError::Connect { .. })));
    let (stop, stopped) = oneshot::channel::<()>();
    let path = socket.clone();
    let listener = listen(&path).unwrap();
    let server = tokio::spawn(async move { serve(listener, Arc::new(Fake), async { drop(stopped.await) }).await });
    let mut client = loop {
        match Client::connect(&socket).await {
            Ok(client) => break client,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(client.status(Scope::Node).await.unwrap(), status());
    let steps: Vec<_> = client
        .preload(PreloadOrder { paths: vec!["/a".into(), "/b".into()], verify: false })
        .await
        .unwrap()
        .map(|step| step.unwrap().files_done)
        .collect()
        .await;
    assert_eq!(steps, [0, 1, 2]);
    let steps: Vec<_> = client.drain().await.unwrap().map(|step| step.unwrap()).collect().await;
    assert_eq!(steps[1], DrainProgress { blocks: 3, moved: 2, moved_bytes: 20, left: 1, done: true });
    assert_eq!((steps.len(), steps[0].done), (2, false));
    assert_eq!(client.free(vec!["/a".into()]).await.unwrap(), Freed { files: 1, bytes: 2 });
    let error = client.free(vec!["/gone".into()]).await.unwrap_err();
    assert_eq!(error.to_string(), "no such path in the data set: /gone");
    assert!(matches!(error, ClientError::NotFound(_)));
    assert_eq!(client.refresh().await.unwrap_err().to_string(), "list: refused");
    assert_eq!(client.pause_preload().await.unwrap_err().to_string(), "pause the preload: no data set is served");
    client.set_log_level("debug".into()).await.unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    drop(client);
    drop(stop);
    server.await.unwrap().unwrap();
    assert!(!socket.exists());
}
