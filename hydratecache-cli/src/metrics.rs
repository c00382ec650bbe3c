//! Shows Prometheus what the library counts.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use hydratecache::metrics::SECONDS_BUCKETS;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::time::{Duration, interval};
use tokio_util::task::AbortOnDropHandle;

/// The exporter keeps every time that it was told until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// Answers at `/metrics`, as long as this lives.
#[must_use = "dropping it ends the answers"]
pub(crate) struct Serving {
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Serves at `address`, if there is one.
pub(crate) async fn serve(address: Option<SocketAddr>) -> anyhow::Result<Option<Serving>> {
    match address {
        Some(address) => serve_at(address).await.map(Some),
        None => Ok(None),
    }
}

/// Installs the recorder of this process, before the first channel is built, and listens at `address`.
/// Where that is, stderr says.
async fn serve_at(address: SocketAddr) -> anyhow::Result<Serving> {
    let listening = TcpListener::bind(address).await;
    let listener = listening.with_context(|| format!("listening for Prometheus at {address}"))?;
    let recorder = PrometheusBuilder::new().set_buckets(SECONDS_BUCKETS)?.install_recorder()?;
    eprintln!("metrics: http://{}/metrics", listener.local_addr()?);
    let shown = recorder.clone();
    let answers = Router::new().route("/metrics", get(move || async move { shown.render() }));
    let serving = tokio::spawn(async move {
        // It tries again by itself after every error.
        let _ = axum::serve(listener, answers).await;
    });
    let tasks = [serving, tokio::spawn(keep_up(recorder))];
    Ok(Serving { _tasks: tasks.map(AbortOnDropHandle::new) })
}

async fn keep_up(recorder: PrometheusHandle) {
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

/// The address of another process, `place` ports further; a port that the system chooses stays one.
#[cfg(feature = "broker")]
pub(crate) fn beside(address: SocketAddr, place: u16) -> anyhow::Result<SocketAddr> {
    let port = match address.port() {
        0 => 0,
        port => port.checked_add(place).context("--metrics leaves no ports for the replicas")?,
    };
    Ok(SocketAddr::new(address.ip(), port))
}
