//! Exporting traces by OTLP.
//!
//! Whatever happens to the collector is no business of the wallet: spans wait in a bounded queue, are sent by a thread of their own, and are
//! dropped when there is no room.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::exit::Failure;
use crate::settings::Settings;

/// How long spans wait until they are sent, unless they are many.
const DELAY: Duration = Duration::from_secs(1);
/// How many spans wait at most; further ones are dropped.
const WAITING_MAX: usize = 16_384;
/// How many are sent at a time.
const BATCH_MAX: usize = 2_048;
/// How long the collector may take for a batch, the connection and repeats included.
const EXPORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long stopping waits for what was not sent yet.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a collector that stays away is not spoken of again.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Traces are exported as long as this lives.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    /// The connection lives here, so that it takes no time from those who serve.
    runtime: Option<Runtime>,
}

impl Traces {
    /// Begins to export where the settings name a collector. It need not be there yet.
    pub(crate) fn start(settings: &Settings) -> Result<Option<Traces>, Failure> {
        let endpoint = settings.text("otlp-endpoint");
        if endpoint.is_empty() {
            return Ok(None);
        }
        let ratio = settings.text("otlp-sample-ratio").parse().expect("the setting was checked");
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("jigap-traces")
            .enable_all()
            .build()
            .context("cannot start the runtime that exports traces")?;
        let in_runtime = runtime.enter();
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_PATIENCE);
        let exporter = exporter.build().with_context(|| format!("--otlp-endpoint {endpoint}"));
        let exporter = Patient::new(exporter.map_err(Failure::usage)?, runtime.handle().clone());
        drop(in_runtime);
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(DELAY)
            .with_max_queue_size(WAITING_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("jigap").with_attribute(version).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_resource(resource)
            .build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Traces { provider, runtime: Some(runtime) }))
    }

    /// What makes spans.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("jigap")
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(STOP_PATIENCE) {
            tracing::warn!(%error, "the last spans may not have been exported");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An exporter that gives each batch a bounded time, and says now and then that it fails.
#[derive(Debug)]
struct Patient {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
    failing: Mutex<Option<Failing>>,
}

/// A collector that has been away for a while.
#[derive(Debug)]
struct Failing {
    told_at: Instant,
    spans_lost: usize,
}

impl Patient {
    fn new(exporter: SpanExporter, runtime: Handle) -> Patient {
        Patient { exporter: Arc::new(exporter), runtime, failing: Mutex::default() }
    }

    /// Tells of the first failure, then of one a minute, and of the end of it.
    fn tell(&self, spans: usize, exported: &OTelSdkResult) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match (exported, failing.as_mut()) {
            (Ok(()), None) => {}
            (Ok(()), Some(Failing { spans_lost, .. })) => {
                tracing::info!(spans_lost = *spans_lost, "traces are exported again");
                *failing = None;
            }
            (Err(_), Some(before)) if before.told_at.elapsed() < COMPLAINT_INTERVAL => {
                before.spans_lost += spans;
            }
            (Err(error), before) => {
                let spans_lost = before.map_or(0, |before| before.spans_lost) + spans;
                tracing::warn!(%error, spans_lost, "traces are dropped until the collector takes them; is otlp-endpoint right?");
                *failing = Some(Failing { told_at: Instant::now(), spans_lost });
            }
        }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Patient {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (spans, exporter) = (batch.len(), Arc::clone(&self.exporter));
        // Within the runtime, because the exporter's own time-out does not bound how long connecting takes.
        let exported = self
            .runtime
            .spawn(async move { tokio::time::timeout(EXPORT_PATIENCE, exporter.export(batch)).await });
        let exported = match exported.await {
            Ok(Ok(exported)) => exported,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT_PATIENCE)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        self.tell(spans, &exported);
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        let exporter =
            Arc::get_mut(&mut self.exporter).expect("nothing is exported before the resource is set");
        exporter.set_resource(resource);
    }
}
