//! A trace that goes on over a real Redis.

mod support;
#[path = "../../hydratecache/tests/support/traces.rs"]
mod traces;

use std::time::Duration;

use futures::stream;
use hydratecache::Channel;
use hydratecache::cache::Replica;
use hydratecache_redis::RedisTransport;
use opentelemetry_sdk::trace::Sampler;
use support::{redis, within};
use traces::{Traces, check_attributes, links_to};
use tracing::{Instrument, info_span};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_is_applied_links_to_its_publish_in_another_process_over_redis() {
    let traces = Traces::record(Sampler::AlwaysOn);
    let broker = redis().await;
    let connect = async || RedisTransport::connect(broker.url()).await.expect("connects");
    let writer = Channel::<String>::new(connect().await, "needle.topic").expect("legal");
    let reader = Channel::<String>::new(connect().await, "needle.topic").expect("legal");
    let hydration = reader.hydrate(Replica::new()).await.expect("starts");
    let request = async {
        writer.publish("needle-key", &"needle-value".to_owned()).await.expect("published");
        let more = stream::iter([("needle-2", "needle-value".to_owned())]);
        writer.publish_all(more).await.expect("published");
    };
    request.instrument(info_span!("request")).await;
    writer.publish("needle-unsampled", &"needle-value".to_owned()).await.expect("published");
    within(LIMIT, hydration.caught_up()).await.expect("caught up");

    let (sent, applied) = (traces.named("send needle.topic"), traces.named("apply needle.topic"));
    assert_eq!((sent.len(), applied.len()), (2, 2), "{:#?}", traces.spans());
    for (sent, applied) in sent.iter().zip(&applied) {
        check_attributes(sent, "redis", "needle.topic", ["send", "send"]);
        check_attributes(applied, "redis", "needle.topic", ["apply", "process"]);
        assert!(links_to(applied, &sent.span_context), "{applied:#?}");
    }
    let text = traces.text().replace("needle.topic", "the topic");
    assert!(!text.contains("needle"), "{text}");
}
