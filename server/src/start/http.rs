//! HTTP of the control thread: health, readiness, metrics, status. Read-only; must never block a shard, and
//! answers while the shards recover and drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use martlet_core::config::Settings;
use martlet_gateway_kafka::KafkaMeters;
use martlet_node::{NodeHandle, NodeStats};
use tokio::net::TcpListener;
use tracing::error;

use super::{metrics, status};

/// How long a scrape waits for the shards' numbers.
const STATS_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the answers are made from.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) handle: NodeHandle,
    pub(crate) started: Instant,
    pub(crate) memory_budget_bytes: u64,
    pub(crate) data_dir: String,
    /// `None` = Kafka's protocol is not served.
    pub(crate) kafka: Option<Arc<KafkaMeters>>,
}

impl Facts {
    pub(crate) fn new(handle: NodeHandle, settings: &Settings, kafka: Arc<KafkaMeters>) -> Facts {
        Facts {
            handle,
            started: Instant::now(),
            memory_budget_bytes: settings.bytes("memory.budget_bytes"),
            data_dir: settings.text("data_dir").to_owned(),
            kafka: settings.flag("kafka.enabled").then_some(kafka),
        }
    }
}

/// Serves `listener` until the process ends.
pub(crate) async fn serve(listener: TcpListener, facts: Arc<Facts>) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/status", get(tell_status))
        .fallback(async || (StatusCode::NOT_FOUND, "not found: use /healthz, /readyz, /metrics or /status\n"))
        .with_state(facts);
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "http ended");
    }
}

async fn ready(State(facts): State<Arc<Facts>>) -> Response {
    let reasons = facts.handle.readiness().reasons;
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; "))).into_response()
}

async fn collect(facts: &Arc<Facts>) -> NodeStats {
    let handle = facts.handle.clone();
    let collected = tokio::task::spawn_blocking(move || handle.collect_stats(STATS_WAIT_MAX)).await;
    collected.unwrap_or_default()
}

async fn scrape(State(facts): State<Arc<Facts>>) -> Response {
    let stats = collect(&facts).await;
    match metrics::encode(&facts, stats) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn tell_status(State(facts): State<Arc<Facts>>) -> Response {
    let stats = collect(&facts).await;
    Json(status::describe(&facts, &stats)).into_response()
}
