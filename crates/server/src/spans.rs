//! The spans of requests, which are the roots of traces unless the caller names one of its own.
//!
//! While no traces are exported, no span is made and no header is looked for.

use axum::http::{HeaderMap, Request};
use distributed::trace::{TARGET, TRACEPARENT, continue_from};
use tracing::field::Empty;
use tracing::{Level, Span};

/// An HTTP request.
pub(crate) fn request<Content>(request: &Request<Content>, route: &'static str) -> Span {
    let method = request.method();
    let span = tracing::span!(
        target: TARGET,
        Level::INFO,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
    );
    child_of_caller(span, request.headers())
}

/// What was answered to an HTTP request.
pub(crate) fn answered(span: &Span, status: u16) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "error");
    }
}

/// A gRPC call; of a stream only its beginning.
pub(crate) fn call(request: &Request<()>) -> Span {
    // `/package.Service/Method`.
    let method = request.uri().path().trim_start_matches('/');
    let span = tracing::span!(
        target: TARGET,
        Level::INFO,
        "call",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.grpc.status_code = Empty,
    );
    child_of_caller(span, request.headers())
}

/// What was answered to the current gRPC call.
pub(crate) fn called(code: i32) {
    Span::current().record("rpc.grpc.status_code", code);
}

/// A batch of a gRPC stream, in the caller's trace if the stream was opened with one. Else it has a trace of its own: streams live for long.
pub(crate) fn batch(transfers: usize, traceparent: Option<&str>) -> Span {
    let span = tracing::span!(target: TARGET, Level::INFO, "batch", otel.kind = "server", transfers);
    continue_from(&span, traceparent);
    span
}

fn child_of_caller(span: Span, headers: &HeaderMap) -> Span {
    if !span.is_disabled() {
        continue_from(&span, traceparent(headers));
    }
    span
}

/// What the caller says of its own span.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()
}
