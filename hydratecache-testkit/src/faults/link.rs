//! The link is cut off, goes quiet, is slow or tears frames apart.

use std::sync::Arc;
use std::time::Instant;

use crate::proxy::{Direction, FaultProxy};
use futures::future::{join, join_all};
use hydratecache::{Signal, Topic, Transport};

use super::support::{
    LONG, Listener, Writer, connect, connect_via_with, effort, fence, in_time, millis, number,
    proxy, secs, topic,
};
use super::{Missed, Setup, Subject};

/// A proxy before the broker, and a transport on each way.
struct Link {
    proxy: FaultProxy,
    far: Arc<dyn Transport>,
    near: Arc<dyn Transport>,
    topic: Topic,
}

impl Link {
    async fn to(subject: &dyn Subject) -> Self {
        Self::with(subject, Setup::default()).await
    }

    /// The same with settings for the far way.
    async fn with(subject: &dyn Subject, setup: Setup) -> Self {
        let proxy = proxy(subject);
        let far = connect_via_with(subject, &proxy, setup).await;
        let near = connect(subject).await;
        Self { proxy, far, near, topic: topic("users") }
    }
}

/// Fault 11: resets a connection in the middle of a frame.
pub async fn a_reset_in_the_middle_of_a_frame_is_an_outage_and_no_rejection(subject: &dyn Subject) {
    let link = Link::to(subject).await;
    let mut listener = Listener::on(&link.far, &link.topic).await;
    let mut writer = Writer::new(&link.near, &link.topic);
    // The writer is known from its first message on; none is received before the first reset.
    let mut received = 0;
    for after_bytes in effort(vec![1, 700, 5000], (0..2000).step_by(7).collect()) {
        link.proxy.reset_mid_frame(after_bytes, Direction::ToClient);
        writer.send_batch(20, 300).await.expect("published");
        loop {
            match listener.next("the reset", LONG).await {
                Signal::Message(message) => received = number(&message),
                Signal::Disrupted(_) => break,
                other => panic!("Disrupted, not {other:?}"),
            }
        }
        link.proxy.heal().expect("heals");
        listener.back(subject, LONG).await;
        let sent = writer.send().await.expect("published");
        match subject.missed() {
            Missed::Replayed => listener.numbers(received + 1..=sent).await,
            Missed::Gone => {
                if received > 0 {
                    listener.lost(sent - 1 - received).await;
                }
                listener.numbers([sent]).await;
            }
        }
        received = sent;
    }
}

/// Fault 11: the link carries nothing, both ways and one way.
pub async fn a_black_hole_whichever_way_is_noticed_within_ten_seconds(subject: &dyn Subject) {
    let directions = [Direction::Both, Direction::ToClient, Direction::ToServer];
    join_all(directions.map(|direction| a_black_hole_is_noticed(subject, direction))).await;
}

async fn a_black_hole_is_noticed(subject: &dyn Subject, direction: Direction) {
    // All three share the broker.
    let topic = topic(&format!("{direction:?}"));
    // In half of the default's time, so that a busy machine has time to be late.
    let setup = Setup { liveness: Some((secs(1), secs(3))), ..Setup::default() };
    let link = Link { topic, ..Link::with(subject, setup).await };
    let mut listener = Listener::on(&link.far, &link.topic).await;
    let mut writer = Writer::new(&link.near, &link.topic);
    let mut far = Writer::new(&link.far, &link.topic);
    link.proxy.black_hole(direction);
    let publishing = async {
        let error = in_time("the answer to a publish", secs(8), far.send()).await;
        let error = error.expect_err("the way is a black hole");
        assert!(error.is_retryable(), "{direction:?}: {error}");
    };
    // Not by the second one that stays unanswered, which would be eight seconds, and sixteen by default.
    join(publishing, listener.disrupted(secs(7))).await;
    let missed = writer.send().await.expect("published");
    link.proxy.heal().expect("heals");
    listener.back(subject, LONG).await;
    let sent = writer.send().await.expect("published");
    let sent_far = in_time("the publisher", LONG, far.send()).await.expect("published");
    match subject.missed() {
        Missed::Gone => listener.numbers([sent, sent_far]).await,
        // Perhaps with the publish whose answer did not come through.
        Missed::Replayed => {
            listener.until_numbers_of(&writer, [missed, sent]).await;
            listener.until_numbers_of(&far, [sent_far]).await;
        }
    }
    fence(&link.far).await;
}

/// Fault 11: the link is slow by up to half a second.
pub async fn half_a_second_of_jitter_is_no_outage(subject: &dyn Subject) {
    let link = Link::to(subject).await;
    let mut listener = Listener::on(&link.far, &link.topic).await;
    link.proxy.delay(millis(0), millis(500));
    let mut near = Writer::new(&link.near, &link.topic);
    let mut far = Writer::new(&link.far, &link.topic);
    let end = Instant::now() + effort(secs(5), secs(120));
    let mut messages = Vec::new();
    while Instant::now() < end {
        for writer in [&mut near, &mut far] {
            in_time("a publish", LONG, writer.send_batch(3, 200)).await.expect("published");
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

/// Fault 11: the link carries one byte at a time.
pub async fn a_link_that_carries_one_byte_at_a_time_delivers_all_in_order(subject: &dyn Subject) {
    let link = Link::to(subject).await;
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
