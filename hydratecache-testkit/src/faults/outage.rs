//! The server dies, freezes, hangs up or was never there.

use std::time::{Duration, Instant};

use crate::proxy::Direction;
use futures::future::join_all;
use hydratecache::{ErrorKind, Transport};

use super::support::{
    LONG, Listener, Rounds, Writer, connect, connect_with, effort, fence, in_time, millis, proxy,
    secs, topic, until,
};
use super::{Connection, Missed, Setup, Subject};

/// Fault 1: kill -9 and restart.
pub async fn a_killed_server_is_noticed_at_once_and_its_restart_too(subject: &dyn Subject) {
    let broker = subject.broker();
    let transport = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    let (mut noticed, mut back) = (Rounds::of("the disruption"), Rounds::of("to be back"));
    let mut own = Rounds::of("the own publisher");
    for _ in 0..effort(3, 30) {
        broker.kill9().await.expect("killed");
        let why = noticed.one(listener.disrupted(LONG)).await;
        assert_eq!(why.kind(), ErrorKind::Unavailable, "{why}");
        broker.start_again().await.expect("restarted");
        back.one(listener.back(subject, LONG)).await;
        let other = connect(subject).await;
        let mut others = Writer::new(&other, &topic);
        for number in 1..=10 {
            others.send().await.expect("published");
            listener.numbers([number]).await;
        }
        let sent = own.one(writer.send()).await.expect("published");
        listener.numbers([sent]).await;
        fence(&transport).await;
    }
    noticed.fastest_took_less_than(secs(1));
    own.fastest_took_less_than(secs(1));
    back.fastest_took_less_than(match subject.missed() {
        Missed::Gone => secs(1),
        // It has its log to open before it serves.
        Missed::Replayed => secs(5),
    });
}

/// Fault 3: SIGSTOP, idle.
pub async fn a_frozen_server_is_noticed_within_ten_seconds_though_nothing_was_sent(
    subject: &dyn Subject,
) {
    let broker = subject.broker();
    // In half of the default's time, so that a busy machine has time to be late.
    let setup = Setup { liveness: Some((secs(1), secs(3))), ..Setup::default() };
    let transport = connect_with(subject, setup).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    broker.pause().await.expect("paused");
    let paused = Instant::now();
    // Not by the second one that stays unanswered, which would be eight seconds, and sixteen by default.
    listener.disrupted(secs(7)).await;
    let rest = effort(secs(12), secs(30)).saturating_sub(paused.elapsed());
    tokio::time::sleep(rest).await;
    broker.resume().await.expect("resumed");
    listener.back(subject, LONG).await;
    let mut writer = Writer::new(&transport, &topic);
    in_time("the publisher", LONG, writer.send()).await.expect("published");
    listener.numbers([1]).await;
    until("as many connections as before", LONG, async || {
        subject.connections().await == subject.connections_of_one()
    })
    .await;
}

/// Fault 4: SIGSTOP for a second.
pub async fn a_second_of_silence_is_no_outage(subject: &dyn Subject) {
    let broker = subject.broker();
    let transport = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    for round in 0..effort(2, 20) {
        broker.pause().await.expect("paused");
        let writing = async {
            for _ in 0..100 {
                writer.send().await.expect("published, if late");
            }
        };
        let waking = async {
            tokio::time::sleep(secs(1)).await;
            broker.resume().await.expect("resumed");
        };
        in_time("a hundred publishes", LONG, futures::future::join(writing, waking)).await;
        listener.numbers(round * 100 + 1..=round * 100 + 100).await;
        let fence = fence(&transport).await;
        assert!(listener.before(fence).await.is_empty(), "no signal");
    }
}

/// Fault 5: an address that takes connections and answers nothing.
pub async fn an_address_that_swallows_everything_is_an_error_within_five_seconds(
    subject: &dyn Subject,
) {
    join_all([Direction::Both, Direction::ToClient].map(async |direction| {
        let proxy = proxy(subject);
        proxy.black_hole(direction);
        let addr = proxy.addr().to_string();
        let connecting = subject.connect(&addr, Setup::default());
        let error = in_time("an error", secs(5), connecting).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(&addr), "{shown}");
        proxy.heal().expect("heals");
        let none = proxy.wait_for(|stats| stats.open == 0);
        in_time("no connection left behind", LONG, none).await;
    }))
    .await;
}

/// Fault 7: the server hangs up on the subscriber.
pub async fn a_subscriber_that_the_server_kills_goes_on_after_a_gap(subject: &dyn Subject) {
    let transport = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    let (mut noticed, mut back) = (Rounds::of("the disruption"), Rounds::of("to be back"));
    for _ in 0..effort(10, 200) {
        subject.kill(Connection::Subscribing).await;
        noticed.one(listener.disrupted(LONG)).await;
        back.one(listener.live_then_gap(LONG)).await;
        let sent = writer.send().await.expect("the publisher was not killed");
        listener.numbers([sent]).await;
    }
    noticed.took_less_than(secs(1), 3);
    back.took_less_than(secs(1), 3);
}

/// Whoever publishes again at once meets a connection that is gone before that is known, and is not to wait for the
/// limit of a publish then.
pub async fn a_publisher_that_the_server_kills_goes_on_at_once(subject: &dyn Subject) {
    let transport = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut answers = Rounds::of("the answer to a publish");
    for _ in 0..effort(10, 200) {
        let publishers = (0..8).map(|_| {
            let mut writer = Writer::new(&transport, &topic);
            tokio::spawn(async move {
                let (end, mut longest) = (Instant::now() + millis(300), Duration::ZERO);
                while Instant::now() < end {
                    let began = Instant::now();
                    if let Err(error) = in_time("an answer", LONG, writer.send()).await {
                        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}");
                    }
                    longest = longest.max(began.elapsed());
                }
                longest
            })
        });
        let publishers = join_all(publishers.collect::<Vec<_>>());
        subject.kill(Connection::Publishing).await;
        for publisher in publishers.await {
            answers.add(publisher.expect("every publish is answered"));
        }
    }
    answers.took_less_than(millis(1200), 3);
    let fence = fence(&transport).await;
    for signal in listener.before(fence).await {
        let fine =
            matches!(signal, hydratecache::Signal::Message(_) | hydratecache::Signal::Gap(_));
        assert!(fine, "the subscriber was not killed: {signal:?}");
    }
}

/// Fault 6: a publish whose limit is longer than the outage.
pub async fn an_outage_shorter_than_the_limit_delays_a_publish_and_no_more(subject: &dyn Subject) {
    let broker = subject.broker();
    let setup = Setup { publish_limit: Some(secs(20)), ..Setup::default() };
    let transport = connect_with(subject, setup).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    broker.kill9().await.expect("killed");
    listener.disrupted(LONG).await;
    let mut writer = Writer::new(&transport, &topic);
    let restart = async {
        tokio::time::sleep(millis(300)).await;
        broker.start_again().await.expect("restarted");
    };
    let (sent, ()) = futures::future::join(writer.send(), restart).await;
    assert_eq!(sent.expect("published after the restart"), 1);
    transport.close().await.expect("closes");
}
