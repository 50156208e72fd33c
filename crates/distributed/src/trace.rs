//! Traces: what a request, a transaction, its phases and its steps have in common.
//!
//! Spans have a target of their own, which nobody listens to unless traces are exported: until then the place in the code that would make
//! one is switched off, and costs a comparison.

use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span.
pub const TARGET: &str = "jigap::span";
/// The header that names the caller's span, by the W3C's recommendation Trace Context.
pub const TRACEPARENT: &str = "traceparent";

/// What a caller, or a message, says of the span that it belongs to.
struct Carrier<Text>(Option<Text>);

impl Extractor for Carrier<&str> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Injector for Carrier<String> {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

/// Makes a span that has not begun yet a child of the one that `traceparent` names. What cannot be read counts as missing.
pub fn continue_from(span: &Span, traceparent: Option<&str>) {
    if span.is_disabled() || traceparent.is_none() {
        return;
    }
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&Carrier(traceparent)));
    // A span that has begun keeps the parent that it has: the trace is only less connected.
    let _ = span.set_parent(context);
}

/// The `traceparent` that makes others children of the current span; `None` when nothing is traced.
pub fn traceparent() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let mut carrier = Carrier(None);
    global::get_text_map_propagator(|propagator| propagator.inject_context(&span.context(), &mut carrier));
    carrier.0
}
