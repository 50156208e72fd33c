//! Traces, as a collector gets them: one trace from the request down to what was asked of each shard.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use api::proto::{self, wallet_client::WalletClient};
use api::wire::encode_batch;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::harness::{self, Home};
use crate::metrics::on_two_shards;
use crate::wallet::{Wallet, transfer};
use crate::{architecture, grpc};

/// The trace of the caller, and his span in it.
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "traceparent";
/// The span of a transfer's request.
const HTTP: &str = "POST /v1/wallet/balance_transfer";

/// A collector on a free port.
struct Collector {
    endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _runtime: Runtime,
}

struct Received(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes =
            request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn start() -> Collector {
        let runtime = Runtime::new().unwrap();
        let spans = Arc::default();
        let service = TraceServiceServer::new(Received(Arc::clone(&spans)));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let served = Server::builder().add_service(service);
        runtime.spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        Collector { endpoint, spans, _runtime: runtime }
    }

    /// What belongs to the caller's trace.
    fn of_the_caller(&self) -> Vec<Span> {
        let mut spans = self.spans.lock().unwrap().clone();
        spans.retain(|span| hex::encode(&span.trace_id) == TRACE_ID);
        spans
    }
}

fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key == key);
    let value = value.unwrap_or_else(|| panic!("{} lacks {key}: {span:?}", span.name)).value.clone();
    match value.unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{key}: {other:?}"),
    }
}

/// The names from the root down to a span.
fn path(span: &Span, by_id: &HashMap<Vec<u8>, Span>) -> String {
    match by_id.get(&span.parent_span_id) {
        Some(parent) => format!("{} > {}", path(parent, by_id), span.name),
        None => {
            assert_eq!(hex::encode(&span.parent_span_id), CALLER, "{} has no parent", span.name);
            span.name.clone()
        }
    }
}

/// What the collector gets of what a caller asks for who traces, and of nothing else.
fn traced(architecture: &str, flags: &[&str], ask: impl FnOnce(&Wallet, &harness::Wallet<'_>)) -> Vec<Span> {
    let collector = Collector::start();
    let home = Home::new();
    let more =
        ["--architecture", architecture, "--otlp-endpoint", &collector.endpoint, "--otlp-sample-ratio", "0"];
    let served = home.serve_with(&[&more[..], flags].concat());
    ask(&Wallet::new(architecture::of(architecture), &served), &served);
    // Stopping sends what is left.
    served.stop();
    let spans = collector.of_the_caller();
    assert_eq!(spans.len(), collector.spans.lock().unwrap().len(), "the others were not to be traced");
    spans
}

/// A transfer from one shard to another: its id, and the shards of the payer and the payee.
fn pay(wallet: &Wallet) -> (String, [String; 2]) {
    let (alice, bob) = on_two_shards(wallet);
    let shards = [&alice, &bob]
        .map(|account| wallet.get(&format!("/v1/wallet/accounts/{account}")).ok()["partition"].to_string());
    let body = transfer(&alice, &bob, "1.00");
    wallet.post_with("/v1/wallet/balance_transfer", &body, &[(TRACEPARENT, &traceparent())]).ok();
    (body["transaction_id"].as_str().unwrap().to_owned(), shards)
}

fn traceparent() -> String {
    format!("00-{TRACE_ID}-{CALLER}-01")
}

/// Checks that every span is within its parent, and tells the path of each with its span.
fn paths(spans: &[Span]) -> Vec<(String, &Span)> {
    let by_id: HashMap<Vec<u8>, Span> =
        spans.iter().map(|span| (span.span_id.clone(), span.clone())).collect();
    for span in spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        if let Some(parent) = by_id.get(&span.parent_span_id) {
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano, "{parent:?} {span:?}");
        }
    }
    spans.iter().map(|span| (path(span, &by_id), span)).collect()
}

/// The steps in the order in which they were asked for: where in the trace, operation, and `payer` or `payee`.
fn steps(spans: &[Span], [payer, payee]: &[String; 2]) -> Vec<(String, String, &'static str)> {
    let mut steps: Vec<(String, &Span)> = paths(spans);
    // What is slow finds its lease renewed, and what found something locked is repeated: those are steps as well.
    steps.retain(|(_, span)| span.name == "step" && attribute(span, "operation") != "note");
    steps.retain(|(_, span)| attribute(span, "outcome") == "done");
    steps.sort_by_key(|(_, span)| span.start_time_unix_nano);
    let whose = |shard: &str| match shard {
        _ if shard == payer => "payer",
        _ if shard == payee => "payee",
        other => panic!("{other} is no shard of it"),
    };
    let step = |(path, span): (String, &Span)| {
        let within = path.strip_prefix(HTTP).unwrap().strip_suffix(" > step").unwrap().to_owned();
        (within, attribute(span, "operation"), whose(&attribute(span, "shard")))
    };
    steps.into_iter().map(step).collect()
}

/// The trace leads from the caller's span over the request and the transaction to each phase, and from there to what was asked of which shard.
#[test]
fn traces_of_a_coordinator() {
    let (_first, first) = testbed::postgres().unwrap();
    let (_second, second) = testbed::postgres().unwrap();
    Home::new().run(&["sql", "migrate", &first, &second]).expect_code(0);
    let shards = format!("{first},{second}");
    let tcc = [
        ("begin", "begin+take", "payer"),
        ("first_phase", "take", "payee"),
        ("decide", "decide+give", "payer"),
        ("second_phase", "give", "payee"),
        ("finish", "finish", "payer"),
    ];
    let saga = [
        ("begin", "begin+take", "payer"),
        ("first_phase", "apply", "payee"),
        ("finish", "decide+finish+give", "payer"),
    ];
    for (protocol, expected) in [("tcc", &tcc[..]), ("saga", &saga)] {
        let mut paid = None;
        let spans = traced(protocol, &["--shards", &shards], |wallet, _| paid = Some(pay(wallet)));
        let (transaction_id, of_shards) = paid.unwrap();
        let paths = paths(&spans);
        let only = |path: &str| {
            let mut found = paths.iter().filter(|(found, _)| found == path).map(|(_, span)| *span);
            let span = found.next().unwrap_or_else(|| panic!("no {path} in {paths:?}"));
            assert!(found.next().is_none(), "more than one {path}");
            span
        };
        assert_eq!(attribute(only(HTTP), "http.response.status_code"), "200");
        let transaction = only(&format!("{HTTP} > transaction"));
        for (key, value) in [("transaction_id", &transaction_id[..]), ("protocol", protocol), ("shards", "2")]
        {
            assert_eq!(attribute(transaction, key), value);
        }
        let steps = steps(&spans, &of_shards);
        // Where the claim is depends on the id.
        assert_eq!((&steps[0].0[..], &steps[0].1[..]), (" > transaction > claim", "claim"));
        let expected = expected.iter().map(|(phase, operation, whose)| {
            only(&format!("{HTTP} > transaction > {phase}"));
            (format!(" > transaction > {phase}"), (*operation).to_owned(), *whose)
        });
        assert_eq!(steps[1..], expected.collect::<Vec<_>>(), "{protocol}");
    }
}

/// Without a coordinator the trace travels with the messages, from the service of one shard to that of the next.
#[test]
fn traces_of_a_choreographed_saga() {
    let (_nats, broker) = testbed::nats().unwrap();
    let (_postgres, first) = testbed::postgres().unwrap();
    let (_mariadb, second) = testbed::mariadb().unwrap();
    Home::new().run(&["sql", "migrate", &first, &second]).expect_code(0);
    let flags = ["--shards", &format!("{first},{second}"), "--broker", &broker];
    let mut paid = None;
    let spans = traced("saga-choreographed", &flags, |wallet, _| paid = Some(pay(wallet)));
    let (transaction_id, of_shards) = paid.unwrap();
    for span in spans.iter().filter(|span| span.name == "transaction") {
        assert_eq!(attribute(span, "transaction_id"), transaction_id);
        assert_eq!(attribute(span, "protocol"), "saga-choreographed");
    }
    let steps = steps(&spans, &of_shards);
    assert_eq!((&steps[0].0[..], &steps[0].1[..]), (" > transaction > claim", "claim"));
    let mut path = String::new();
    let hops = [
        ("begin", "begin+take", "payer"),
        ("first_phase", "apply", "payee"),
        ("finish", "decide+finish+give", "payer"),
    ];
    let expected = hops.map(|(phase, operation, whose)| {
        path.push_str(" > transaction");
        (format!("{path} > {phase}"), operation.to_owned(), whose)
    });
    assert_eq!(steps[1..], expected);
}

/// The caller's span is the parent of a gRPC call, and of each batch of a stream.
#[test]
fn traces_over_grpc() {
    let spans = traced("event-sourced", &[], |wallet, served| {
        let (alice, bob) = wallet.payer_and_payee();
        let transfer = grpc::transfer(grpc::named(&alice), grpc::named(&bob), 100);
        let batch = encode_batch(1, &[transfer]);
        let account = proto::GetAccountRequest { account_id: bob };
        Runtime::new().unwrap().block_on(async {
            let address = format!("http://{}", served.grpc);
            let mut client = WalletClient::new(Endpoint::new(address).unwrap().connect_lazy());
            client.get_account(by_the_caller(account)).await.unwrap();
            let batches = by_the_caller(tokio_stream::iter([batch]));
            let mut results = client.transfers(batches).await.unwrap().into_inner();
            results.message().await.unwrap().unwrap();
            assert!(results.message().await.unwrap().is_none());
        });
    });
    let mut paths = paths(&spans);
    paths.sort_by_key(|(_, span)| span.start_time_unix_nano);
    let found: Vec<&str> = paths.iter().map(|(path, _)| &path[..]).collect();
    assert_eq!(found, ["jigap.v1.Wallet/GetAccount", "jigap.v1.Wallet/Transfers", "batch"]);
    assert_eq!(attribute(paths[0].1, "rpc.grpc.status_code"), "0");
    assert_eq!(attribute(paths[2].1, "transfers"), "1");
}

fn by_the_caller<Message>(message: Message) -> Request<Message> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(TRACEPARENT, traceparent().parse().unwrap());
    request
}

/// A collector that takes connections and never answers, or is not there at all, holds up neither requests nor the end, and the log tells of it.
#[test]
fn traces_that_nobody_takes() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), gone] {
        let home = Home::new();
        let endpoint = format!("http://{address}");
        let mut served = home.serve_with(&["--otlp-endpoint", &endpoint, "--otlp-sample-ratio", "1"]);
        let wallet = Wallet::new(architecture::of("event-sourced"), &served);
        let (alice, bob) = wallet.payer_and_payee();
        for _ in 0..10 {
            wallet.transfer(&alice, &bob, "1.00").ok();
        }
        served.signal(Signal::TERM);
        // Refused, or not taken in the time that stopping waits.
        served.wait_for_log("spans");
        assert_eq!(served.wait().code(), Some(0));
    }
}
