//! Structured log lines on standard error; spans go to the collector of traces.

use std::io::IsTerminal;

use distributed::trace;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::settings::Settings;
use crate::traces::Traces;

/// Starts logging as the settings say.
pub(crate) fn start(settings: &Settings, traces: Option<&Traces>) {
    let registry = tracing_subscriber::registry();
    match traces {
        // Without a layer that wants them, spans are switched off where they would be made.
        None => registry.with(lines(settings)).init(),
        Some(traces) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(traces.tracer())
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_filter(Targets::new().with_target(trace::TARGET, LevelFilter::INFO));
            registry.with(spans).with(lines(settings)).init();
        }
    }
}

/// What writes log lines. It knows no spans.
fn lines<Inner>(settings: &Settings) -> impl Layer<Inner>
where
    Inner: Subscriber + for<'span> LookupSpan<'span>,
{
    let filter: Targets = settings.text("log-level").parse().expect("the setting was checked");
    let json = match settings.text("log-format") {
        "json" => true,
        "text" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer = if json {
        layer.json().flatten_event(true).boxed()
    } else {
        layer.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    layer.with_filter(filter.with_target(trace::TARGET, LevelFilter::OFF))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::settings::Flags;

    #[test]
    fn no_span_is_made_without_a_collector() {
        let values = [("log-level", "trace".to_owned())].into_iter().collect();
        let settings = Settings::resolve(&Flags { file: None, values }, &[]).expect("it is right");
        let subscriber = tracing_subscriber::registry().with(lines(&settings));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::span!(target: trace::TARGET, Level::INFO, "request").is_disabled());
            assert!(!tracing::span!(Level::INFO, "of a library").is_disabled());
        });
    }
}
