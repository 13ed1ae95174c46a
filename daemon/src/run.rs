//! The skeleton of a long-running process: a runtime, a stop signal, a health, maybe an endpoint; then the process' own work.
//! Knows the order of start and stop. Does not know the work.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::logging::chain;
use crate::metrics;
use crate::shutdown::{self, Shutdown};

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("listen to signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Listen(#[from] metrics::ListenError),
}

/// What the work is given.
#[derive(Debug)]
pub struct Parts {
    pub shutdown: Shutdown,
    pub trigger: shutdown::Trigger,
    pub health: Arc<Health>,
    listener: Option<TcpListener>,
}

impl Parts {
    /// Begins to answer metrics, if an address was given: its address with the port that was taken. A second call answers nothing.
    pub fn answer_metrics(&mut self, registry: Arc<Registry>) -> Option<SocketAddr> {
        let listener = self.listener.take()?;
        let address = listener.local_addr().ok();
        let server = metrics::serve(listener, registry, self.health.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::warn!(error = %chain(&error), "the metrics endpoint ended");
            }
        });
        address
    }
}

/// Runs `work` until it returns. The port for metrics is taken first. Blocks the calling thread.
pub fn run<W, F, T>(endpoint: Option<SocketAddr>, work: W) -> Result<T, RunError>
where
    W: FnOnce(Parts) -> F,
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(RunError::Runtime)?;
    let result = runtime.block_on(async {
        let (shutdown, trigger) = shutdown::on_signals().map_err(RunError::Signals)?;
        let health = Arc::new(Health::default());
        let listener = match endpoint {
            Some(address) => Some(metrics::listen(address).await?),
            None => None,
        };
        let value = work(Parts { shutdown, trigger: trigger.clone(), health: health.clone(), listener }).await;
        health.set_stopping();
        trigger.stop();
        Ok(value)
    });
    // What is still on its way ends with the process. Ended here, a reply that a task owes the kernel would be dropped, which answers it with an
    // error; unanswered, the kernel sends the request again to the next process.
    std::mem::forget(runtime);
    result
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_work_gets_a_port_and_its_value_comes_back() {
        let value = run(Some("127.0.0.1:0".parse().unwrap()), |mut parts| async move {
            let registry = Arc::new(Registry::default());
            assert_ne!(parts.answer_metrics(registry.clone()).unwrap().port(), 0);
            assert_eq!(parts.answer_metrics(registry), None);
            parts.trigger.stop();
            parts.shutdown.wait().await;
            7
        });
        assert_eq!(value.unwrap(), 7);
    }
}
