//! The link is cut before a subscription is confirmed, or a publish acknowledged.

use std::time::Duration;

use futures::future::join;
use hydratecache::{ErrorKind, Signal, Transport};

use crate::proxy::Direction;

use super::Subject;
use super::support::{
    LONG, Listener, Writer, connect, connect_via, fence, in_time, no_subscription_left, number,
    proxy, secs, topic,
};

/// What a call takes at most that need not wait for its limit: less than a publish's by default.
const ANSWER: Duration = secs(4);

/// Fault 12: the link is cut at every moment of a proof.
pub async fn a_subscription_cut_before_its_proof_is_an_error_or_hears_everything(
    subject: &dyn Subject,
) {
    let near = connect(subject).await;
    for cut in subject.cuts_of_a_subscription() {
        let case = format!("{cut:?}");
        let topic = topic("users");
        let proxy = proxy(subject);
        let far = connect_via(subject, &proxy).await;
        cut.arm(&proxy);
        let healing = async {
            let cut = proxy.wait_for(|stats| stats.fired >= 2);
            in_time(format!("a second attempt, {case}"), LONG, cut).await;
            proxy.heal().expect("heals");
        };
        let subscribing = in_time(&case, secs(6), far.subscribe(topic.clone()));
        let (subscription, ()) = join(subscribing, healing).await;
        // It has the time to come through, so it must.
        drop(subscription.unwrap_or_else(|error| panic!("{case}: {error}")));
        let mut listener = Listener::on(&far, &topic).await;
        let mut writer = Writer::new(&near, &topic);
        writer.send().await.expect("published");
        listener.numbers([1]).await;
        far.close().await.expect("closes");
        no_subscription_left(subject, &case).await;
    }
}

/// Fault 12: no proof ever arrives.
pub async fn a_subscription_whose_proof_is_always_cut_is_an_error_in_time(subject: &dyn Subject) {
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    subject.cut_of_every_proof().arm(&proxy);
    let subscribing = in_time("an error", secs(8), far.subscribe(topic("users")));
    let error = subscribing.await.expect_err("no proof ever arrives");
    assert!(error.is_retryable(), "{error}");
    proxy.heal().expect("heals");
    Listener::on(&far, &topic("users")).await;
}

/// Fault 12: the link is cut before a publish is acknowledged.
pub async fn a_publish_cut_before_its_answer_is_of_unknown_outcome_and_applied_at_most_once(
    subject: &dyn Subject,
) {
    let near = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&near, &topic).await;
    for (cut, arrives) in subject.cuts_of_a_publish() {
        let proxy = proxy(subject);
        let far = connect_via(subject, &proxy).await;
        let mut writer = Writer::new(&far, &topic);
        cut.arm(&proxy);
        let error = in_time("an error", ANSWER, writer.send()).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}");
        proxy.heal().expect("heals");
        let last = in_time("a publish", LONG, published(&mut writer)).await;
        let expected: &[u64] = if arrives { &[1, last] } else { &[last] };
        let fence = fence(&near).await;
        let signals = listener.before(fence).await;
        let numbers: Vec<u64> = signals.iter().filter_map(received).collect();
        assert_eq!(numbers, expected, "{cut:?}");
    }
}

/// Without its sequence a message that came twice would be seen twice.
pub async fn batches_torn_apart_by_a_reset_are_applied_at_most_once_and_in_order(
    subject: &dyn Subject,
) {
    let near = connect(subject).await;
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    let topic = topic("users");
    let mut listener = Listener::on(&near, &topic).await;
    let (mut last, mut seen) = (0, 0);
    for round in 0..10 {
        proxy.reset_mid_frame(500 + 97 * round, Direction::ToServer);
        let batch = (1..=40).map(|number: u64| unnumbered(last + number)).collect();
        last += 40;
        let publishing = in_time("an error", ANSWER, far.publish(topic.clone(), batch));
        let error = publishing.await.expect_err("the batch is longer than that");
        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}");
        proxy.heal().expect("heals");
        let whole = async {
            loop {
                last += 1;
                match far.publish(topic.clone(), vec![unnumbered(last)]).await {
                    Ok(()) => return,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
        };
        in_time("a publish", LONG, whole).await;
        let fence = fence(&near).await;
        for signal in listener.before(fence).await {
            let number = received(&signal).expect("a message");
            assert!(number > seen, "{number} after {seen}: twice, or out of order");
            seen = number;
        }
        assert_eq!(seen, last, "what was acknowledged has arrived");
    }
}

/// Tries until the link is back; returns the number that came through.
async fn published(writer: &mut Writer) -> u64 {
    loop {
        match writer.send().await {
            Ok(number) => return number,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

fn unnumbered(number: u64) -> hydratecache::Message {
    let key = hydratecache::Key::new("key").expect("legal");
    let mut payload = number.to_be_bytes().to_vec();
    // Forty of them are longer than any reset lets pass, in every broker's protocol.
    payload.resize(100, b'x');
    hydratecache::Message::put(key, payload.into())
}

fn received(signal: &Signal) -> Option<u64> {
    match signal {
        Signal::Message(message) => Some(number(message)),
        _ => None,
    }
}
