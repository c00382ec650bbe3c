//! Spans of publishes and of what is applied and delivered, as an exporter gets them.
#![cfg(all(feature = "json", feature = "opentelemetry"))]

#[path = "support/traces.rs"]
mod traces;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use hydratecache::cache::Replica;
use hydratecache::codec::Json;
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{Channel, Event, Message, Signal, Topic, TraceParent, Transport};
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::trace::Sampler;
use traces::{Traces, check_attributes, links_to};
use tracing::instrument::WithSubscriber;
use tracing::{Instrument, info_span};

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("within the limit")
}

fn users(link: MemoryTransport) -> Channel<String> {
    Channel::new(link, "users").expect("legal")
}

fn value() -> String {
    "Ada".to_owned()
}

/// The next message of a subscription without types.
async fn message(subscription: &mut hydratecache::Subscription) -> Message {
    loop {
        let signal = within(subscription.next()).await.expect("open");
        if let Signal::Message(message) = signal {
            return message;
        }
    }
}

#[tokio::test]
async fn what_is_applied_links_to_the_publish_of_a_sampled_caller() {
    for activation in [true, false] {
        let traces = Traces::with_activation(Sampler::AlwaysOn, activation);
        let broker = MemoryBroker::new();
        let (writer, reader) = (users(broker.connect()), users(broker.connect()));
        let hydration = reader.hydrate(Replica::new()).await.expect("starts");
        let request = async { writer.publish("user:1", &value()).await };
        request.instrument(info_span!("request")).await.expect("published");
        within(hydration.caught_up()).await.expect("caught up");

        let [sent, applied, request] = ["send users", "apply users", "request"].map(|name| {
            let spans = traces.named(name);
            assert_eq!(spans.len(), 1, "{:#?}", traces.spans());
            spans[0].clone()
        });
        assert_eq!(sent.parent_span_id, request.span_context.span_id());
        assert_eq!(sent.span_context.trace_id(), request.span_context.trace_id());
        check_attributes(&sent, "memory", "users", ["send", "send"]);
        check_attributes(&applied, "memory", "users", ["apply", "process"]);
        assert!(links_to(&applied, &sent.span_context), "{applied:#?}");
        assert_eq!(applied.parent_span_id, SpanId::INVALID);
    }
}

#[tokio::test]
async fn a_caller_that_is_not_sampled_leaves_no_trace() {
    for sampler in [None, Some(Sampler::AlwaysOff), Some(Sampler::AlwaysOn)] {
        // Without a layer, with a caller that is not sampled, and without a span around the publish.
        let is_in_span = matches!(sampler, Some(Sampler::AlwaysOff));
        let traces = sampler.map(Traces::record);
        let link = MemoryBroker::new().connect();
        let users = users(link.clone());
        let hydration = users.hydrate(Replica::new()).await.expect("starts");
        let topic = Topic::new("users").expect("legal");
        let mut raw = link.subscribe(topic).await.expect("subscribes");
        let publish = async {
            users.publish("user:1", &value()).await.expect("published");
            let more = stream::iter([("user:2", value())]);
            users.publish_all(more).await.expect("published");
        };
        if is_in_span {
            publish.instrument(info_span!("request")).await;
        } else {
            publish.await;
        }
        within(hydration.caught_up()).await.expect("caught up");
        for _ in 0..2 {
            assert_eq!(message(&mut raw).await.trace_parent(), None);
        }
        let spans = traces.map(|traces| traces.spans()).unwrap_or_default();
        assert!(spans.is_empty(), "{spans:#?}");
    }
}

#[tokio::test]
async fn each_message_of_a_batch_has_a_context_of_its_own() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let users = users(MemoryBroker::new().connect());
    let hydration = users.hydrate(Replica::new()).await.expect("starts");
    let request = async {
        let all = stream::iter((0..20).map(|number| (format!("user:{number}"), value())));
        users.publish_all(all).await.expect("published");
        let single = (0..20).map(|number| users.publish(format!("user:{number}"), &value()));
        let answers = futures::future::join_all(single).await;
        assert!(answers.iter().all(Result::is_ok));
    };
    request.instrument(info_span!("request")).await;
    within(hydration.caught_up()).await.expect("caught up");
    let (sent, applied) = (traces.named("send users"), traces.named("apply users"));
    assert_eq!((sent.len(), applied.len()), (40, 40));
    let ids: BTreeSet<_> = applied
        .iter()
        .map(|span| span.links.iter().next().expect("a link").span_context.span_id().to_bytes())
        .collect();
    let of_sent = sent.iter().map(|span| span.span_context.span_id().to_bytes()).collect();
    assert_eq!(ids, of_sent);
}

#[tokio::test]
async fn the_callers_own_trace_parent_goes_with_the_message() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let link = MemoryBroker::new().connect();
    let users = users(link.clone());
    let mut raw = link.subscribe(Topic::new("users").expect("legal")).await.expect("subscribes");
    let hydration = users.hydrate(Replica::new()).await.expect("starts");
    let given: TraceParent =
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().expect("legal");
    let request = async { users.put("user:1", &value()).trace_parent(given).await };
    request.instrument(info_span!("request")).await.expect("published");
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!(message(&mut raw).await.trace_parent(), Some(given));
    let spans = [traces.named("send users"), traces.named("apply users")].concat();
    assert_eq!(spans.len(), 2);
    for span in spans {
        let link = &span.links.iter().next().expect("a link").span_context;
        assert_eq!(link.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(link.span_id().to_string(), "00f067aa0ba902b7");
    }
}

#[tokio::test]
async fn a_message_for_a_transaction_carries_the_callers_context() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let users = users(MemoryBroker::new().connect());
    let request = info_span!("request");
    let (_, message) =
        request.in_scope(|| users.put("user:1", &value()).into_message()).expect("legal");
    drop(request);
    let request = &traces.named("request")[0].span_context;
    let carried = message.trace_parent().expect("carried");
    let ids = format!("00-{}-{}-01", request.trace_id(), request.span_id());
    assert_eq!(carried.as_str(), ids);
}

#[tokio::test]
async fn what_a_handler_does_is_part_of_the_delivery() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let broker = MemoryBroker::new();
    let (writer, reader) = (users(broker.connect()), users(broker.connect()));
    let (told, mut handled) = tokio::sync::mpsc::channel(1);
    let handling = tokio::spawn(
        async move {
            let handle = |event: Event<String>| {
                let told = told.clone();
                async move {
                    let Event::Update(update) = event else { return };
                    info_span!("handled").in_scope(|| assert!(update.trace_parent.is_some()));
                    told.send(()).await.expect("awaited");
                }
            };
            reader.for_each(handle).await.expect("subscribes");
        }
        .with_current_subscriber(),
    );
    while broker.subscriptions(&Topic::new("users").expect("legal")) == 0 {
        tokio::task::yield_now().await;
    }
    let request = async { writer.publish("user:1", &value()).await };
    request.instrument(info_span!("request")).await.expect("published");
    within(handled.recv()).await.expect("handled");
    writer.publish("user:2", &value()).await.expect("published, without a span");
    within(async {
        // The next event that is asked for ends the span.
        while traces.named("deliver users").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    handling.abort();
    let (sent, handled) = (&traces.named("send users")[0], &traces.named("handled")[0]);
    let delivered = &traces.named("deliver users")[0];
    assert!(links_to(delivered, &sent.span_context), "{delivered:#?}");
    check_attributes(delivered, "memory", "users", ["deliver", "process"]);
    assert_eq!(handled.parent_span_id, delivered.span_context.span_id());
}

#[tokio::test]
async fn a_publish_that_fails_is_a_span_with_its_error() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let link = MemoryBroker::new().connect();
    let users = users(link.clone());
    link.close().await.expect("closes");
    let request = async {
        users.publish("user:1", &value()).await.expect_err("closed");
        users.publish_all(stream::iter([("user:2", value())])).await.expect_err("closed");
    };
    request.instrument(info_span!("request")).await;
    let sent = traces.named("send users");
    assert_eq!(sent.len(), 2);
    for span in sent {
        assert!(matches!(span.status, Status::Error { .. }), "{span:#?}");
        let is_kind = |attribute: &opentelemetry::KeyValue| {
            attribute.key.as_str() == "error.type" && attribute.value.to_string() == "Closed"
        };
        assert!(span.attributes.iter().any(is_kind), "{span:#?}");
    }
}

#[tokio::test]
async fn neither_keys_nor_payloads_are_in_spans_and_events() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let broker = MemoryBroker::new();
    let (writer, link) = (users(broker.connect()), broker.connect());
    let hydration = users(link.clone()).hydrate(Replica::new()).await.expect("starts");
    let mut updates = users(broker.connect()).subscribe().await.expect("subscribes");
    let foreign = Channel::<u64>::builder_with_codec(broker.connect(), "users", Json);
    let foreign = foreign.build().expect("legal");
    let secret = "needle-value".to_owned();
    let request = async {
        writer.publish("needle-key", &secret).await.expect("published");
        // Not what the readers read: it is rejected.
        foreign.publish("needle-foreign", &1_234_567).await.expect("published");
        link.cut();
        writer.publish("needle-lost", &secret).await.expect("published");
        link.heal();
        writer.remove("needle-key").await.expect("published");
        writer.put("needle-early", &secret).version(1).await.expect_err("no version belongs there");
    };
    request.instrument(info_span!("request")).await;
    within(hydration.caught_up()).await.expect("caught up");
    for _ in 0..4 {
        within(updates.next()).await.expect("open");
    }
    let text = traces.text();
    for said in ["send users", "apply users", "deliver users", "rejected a message", "gap"] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    assert!(!text.contains("needle") && !text.contains("1234567"), "{text}");
}
