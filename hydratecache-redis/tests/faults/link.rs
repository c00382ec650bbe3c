//! The link is cut off, goes quiet, is slow or tears frames apart.

use std::time::Instant;

use futures::future::{join, join_all};
use hydratecache::{Signal, Topic};
use hydratecache_redis::{RedisConfig, RedisTransport};
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::proxy::{Direction, FaultProxy};

use crate::support::{
    Listener, Writer, admin, effort, fence, in_time, millis, number, redis, secs, topic,
};

/// A server, a proxy to it, and a transport on each way.
struct Link {
    broker: Broker,
    proxy: FaultProxy,
    far: RedisTransport,
    near: RedisTransport,
    topic: Topic,
}

impl Link {
    async fn new(configure: impl FnOnce(RedisConfig) -> RedisConfig) -> Self {
        let broker = redis().await;
        let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
        let far = RedisConfig::from_url(&format!("redis://{}", proxy.addr())).expect("legal");
        let far = configure(far).connect().await.expect("connects through the proxy");
        let near = RedisTransport::connect(broker.url()).await.expect("connects");
        Self { broker, proxy, far, near, topic: topic("users") }
    }

    async fn plain() -> Self {
        Self::new(|config| config).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_the_server_cuts_off_for_its_backlog_is_told_of_a_gap() {
    // No sign of life is asked for, so that only the server can end the connection.
    let link = Link::new(|config| config.with_liveness(secs(600), secs(600))).await;
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 512kb 1"];
    admin(&link.broker, &limit).await;
    let mut listener = Listener::on(&link.far, &link.topic).await;
    link.proxy.throttle(1 << 20);
    let mut writer = Writer::new(&link.near, &link.topic);
    for _ in 0..effort(8, 64) {
        writer.send_batch(16, 64 << 10).await.expect("the publisher is not to blame");
    }
    let mut received = 0;
    loop {
        match listener.next("the server to cut the reader off", secs(20)).await {
            Signal::Message(message) => {
                received += 1;
                assert_eq!(number(&message), received, "in order up to the cut");
            }
            Signal::Disrupted(_) => break,
            other => panic!("messages, then Disrupted, not {other:?}"),
        }
    }
    listener.live_then_gap(secs(2)).await;
    let sent = writer.send().await.expect("published");
    assert!(received < sent - 1, "something was lost, which the gap stands for");
    listener.lost(sent - 1 - received).await;
    listener.numbers([sent]).await;
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_frame_is_an_outage_and_no_rejection() {
    let link = Link::plain().await;
    let mut listener = Listener::on(&link.far, &link.topic).await;
    let mut writer = Writer::new(&link.near, &link.topic);
    // The writer is known from its first message on; none is received before the first reset.
    let mut received = 0;
    for after_bytes in effort(vec![1, 700, 5000], (0..2000).step_by(7).collect()) {
        link.proxy.reset_mid_frame(after_bytes, Direction::ToClient);
        writer.send_batch(20, 300).await.expect("published");
        loop {
            match listener.next("the reset", secs(1)).await {
                Signal::Message(message) => received = number(&message),
                Signal::Disrupted(_) => break,
                other => panic!("Disrupted, not {other:?}"),
            }
        }
        link.proxy.heal().expect("heals");
        listener.live_then_gap(secs(2)).await;
        let sent = writer.send().await.expect("published");
        if received > 0 {
            listener.lost(sent - 1 - received).await;
        }
        listener.numbers([sent]).await;
        received = sent;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_whichever_way_is_noticed_within_ten_seconds() {
    let directions = [Direction::Both, Direction::ToClient, Direction::ToServer];
    join_all(directions.map(a_black_hole_is_noticed)).await;
}

async fn a_black_hole_is_noticed(direction: Direction) {
    let link = Link::plain().await;
    let mut listener = Listener::on(&link.far, &link.topic).await;
    let mut writer = Writer::new(&link.near, &link.topic);
    let mut far = Writer::new(&link.far, &link.topic);
    link.proxy.black_hole(direction);
    let publishing = async {
        let error = in_time("the answer to a publish", millis(5500), far.send()).await;
        let error = error.expect_err("the way is a black hole");
        assert!(error.is_retryable(), "{direction:?}: {error}");
    };
    join(publishing, listener.disrupted(secs(10))).await;
    writer.send().await.expect("published");
    link.proxy.heal().expect("heals");
    listener.live_then_gap(secs(2)).await;
    let sent = writer.send().await.expect("published");
    let sent_far = in_time("the publisher", secs(5), far.send()).await.expect("published");
    listener.numbers([sent, sent_far]).await;
    fence(&link.far).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_second_of_jitter_is_no_outage() {
    let link = Link::plain().await;
    let mut listener = Listener::on(&link.far, &link.topic).await;
    link.proxy.delay(millis(0), millis(500));
    let mut near = Writer::new(&link.near, &link.topic);
    let mut far = Writer::new(&link.far, &link.topic);
    let end = Instant::now() + effort(secs(5), secs(120));
    let mut messages = Vec::new();
    while Instant::now() < end {
        for writer in [&mut near, &mut far] {
            in_time("a publish", secs(5), writer.send_batch(3, 200)).await.expect("published");
        }
        let fence = fence(&link.far).await;
        for signal in listener.before(fence).await {
            let Signal::Message(message) = signal else { panic!("a message, not {signal:?}") };
            messages.push(message);
        }
    }
    for writer in [&near, &far] {
        let numbers = messages.iter().filter(|message| message.origin() == Some(writer.origin()));
        let last = 3 * u64::try_from(messages.len()).expect("few") / 6;
        assert!(numbers.map(number).eq(1..=last), "all of them, in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_carries_one_byte_at_a_time_delivers_all_in_order() {
    let link = Link::plain().await;
    link.proxy.one_byte_at_a_time();
    let mut listener = Listener::on(&link.far, &link.topic).await;
    let mut near = Writer::new(&link.near, &link.topic);
    let mut far = Writer::new(&link.far, &link.topic);
    for payload_bytes in effort(vec![8, 100, 3000], (8..5000).step_by(61).collect()) {
        let near = near.send_batch(10, payload_bytes).await.expect("published");
        listener.numbers(near - 9..=near).await;
        let far = far.send_batch(10, payload_bytes).await.expect("published");
        listener.numbers(far - 9..=far).await;
    }
    let fence = fence(&link.far).await;
    assert!(listener.before(fence).await.is_empty());
}
