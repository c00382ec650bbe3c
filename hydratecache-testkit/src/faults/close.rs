//! Closing while everything else goes on, and publishing as soon as one may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join, join_all};
use futures::{FutureExt, StreamExt};
use hydratecache::{Error, ErrorKind, Transport};
use tokio::runtime::Handle;

use super::Subject;
use super::support::{LONG, Listener, Rounds, Writer, connect, effort, millis, secs, topic, until};

/// What a close takes at most.
const LIMIT: Duration = secs(2);

/// What it ends is over with it.
const AT_ONCE: Duration = millis(200);

/// Fault 20: closes while everybody publishes, subscribes and asks for fences.
pub async fn a_close_amid_calls_is_quick_and_leaves_no_task_and_no_connection(
    subject: &dyn Subject,
) {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let (mut closing, mut ending) = (Rounds::of("the close"), Rounds::of("what a close ends"));
    for round in 0..effort(300, 10_000) {
        let transport = connect(subject).await;
        let mut stream = Listener::on(&transport, &topic("steady")).await.into_inner();
        let calls: Vec<_> = (0..3).flat_map(|_| every_call(&transport)).map(tokio::spawn).collect();
        for _ in 0..round % 8 {
            tokio::task::yield_now().await;
        }
        closing.one(transport.close()).await.expect("closes");
        for call in ending.one(join_all(calls)).await {
            call.expect("no call panics");
        }
        ending.one(async { while stream.next().await.is_some() {} }).await;
        if round % 50 == 49 {
            let none = async || subject.connections().await == 0;
            until("no connection at the server", LONG, none).await;
        }
    }
    closing.took_less_than(LIMIT, 100);
    ending.took_less_than(LIMIT, 100);
    let gone = async || Handle::current().metrics().num_alive_tasks() <= tasks;
    until("no task left", LONG, gone).await;
}

/// Calls until it is closed.
fn every_call(transport: &Arc<dyn Transport>) -> [BoxFuture<'static, ()>; 3] {
    let [one, two, three] = [transport, transport, transport].map(Arc::clone);
    [
        async move {
            let mut writer = Writer::new(&one, &topic("steady"));
            while is_open(writer.send().await) {}
        }
        .boxed(),
        async move { while is_open(two.subscribe(topic("fleeting")).await) {} }.boxed(),
        async move { while is_open(three.fence().await) {} }.boxed(),
    ]
}

fn is_open<T>(answer: Result<T, Error>) -> bool {
    match answer.map_err(|error| error.kind()) {
        Ok(_) | Err(ErrorKind::UnknownOutcome) => true,
        Err(ErrorKind::Closed) => false,
        Err(kind) => panic!("Closed, or of unknown outcome, not {kind:?}"),
    }
}

/// Fault 20: closes while the server does not answer.
pub async fn a_close_of_a_frozen_server_ends_the_calls_under_way(subject: &dyn Subject) {
    is_quick_once_of_twice(async |closing, ending| {
        close_a_frozen_server(subject, closing, ending).await;
    })
    .await;
}

async fn is_quick_once_of_twice(mut close: impl AsyncFnMut(&mut Rounds, &mut Rounds)) {
    let (mut closing, mut ending) = (Rounds::of("the close"), Rounds::of("what a close ends"));
    for _ in 0..2 {
        close(&mut closing, &mut ending).await;
    }
    closing.fastest_took_less_than(LIMIT);
    ending.fastest_took_less_than(AT_ONCE);
}

async fn close_a_frozen_server(subject: &dyn Subject, closing: &mut Rounds, ending: &mut Rounds) {
    let broker = subject.broker();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let transport = connect(subject).await;
    let stream = Listener::on(&transport, &topic("steady")).await.into_inner();
    broker.pause().await.expect("paused");
    let calls: Vec<_> = every_call(&transport).map(tokio::spawn).into();
    // One that nobody polls any more must not keep anything alive either.
    let message = Writer::new(&transport, &topic("steady")).message(8);
    let mut forgotten = transport.publish(topic("steady"), vec![message]);
    assert!(futures::poll!(&mut forgotten).is_pending());
    tokio::time::sleep(millis(100)).await;
    closing.one(transport.close()).await.expect("closes");
    for call in ending.one(join_all(calls)).await {
        call.expect("Closed, or of unknown outcome");
    }
    drop(stream);
    let gone = async || Handle::current().metrics().num_alive_tasks() <= tasks;
    until("no task left", LONG, gone).await;
    broker.resume().await.expect("resumed");
    let none = async || subject.connections().await == 0;
    until("no connection at the server", LONG, none).await;
    let error = forgotten.await.expect_err("it was closed meanwhile");
    // Closed, where nothing was sent before the server froze.
    let is_honest = matches!(error.kind(), ErrorKind::UnknownOutcome | ErrorKind::Closed);
    assert!(is_honest, "{error}");
}

/// Fault 20: closes while there is no server.
pub async fn a_close_amid_an_outage_ends_the_calls_that_wait_for_its_end(subject: &dyn Subject) {
    is_quick_once_of_twice(async |closing, ending| {
        close_amid_an_outage(subject, closing, ending).await;
    })
    .await;
}

async fn close_amid_an_outage(subject: &dyn Subject, closing: &mut Rounds, ending: &mut Rounds) {
    let broker = subject.broker();
    let tasks = Handle::current().metrics().num_alive_tasks();
    let transport = connect(subject).await;
    let mut listener = Listener::on(&transport, &topic("steady")).await;
    broker.kill9().await.expect("killed");
    listener.disrupted(LONG).await;
    tokio::time::sleep(millis(100)).await;
    let mut writers: Vec<_> = (0..10).map(|_| Writer::new(&transport, &topic("steady"))).collect();
    let mut calls: Vec<_> = writers.iter_mut().map(|writer| writer.send().boxed()).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending(), "it waits for the link");
    }
    closing.one(transport.close()).await.expect("closes");
    for answer in ending.one(join_all(calls)).await {
        assert_eq!(answer.expect_err("closed").kind(), ErrorKind::Closed);
    }
    drop(listener);
    let gone = async || Handle::current().metrics().num_alive_tasks() <= tasks;
    until("no task left", LONG, gone).await;
    broker.start_again().await.expect("started");
}

/// Fault 20: closes right after a publish began.
pub async fn what_was_published_before_a_close_is_answered_by_the_server(subject: &dyn Subject) {
    /// How long a close waits for answers of the server.
    const WAIT: Duration = secs(1);
    let other = connect(subject).await;
    let (mut topic, mut late) = (topic("users"), 0);
    for _ in 0..effort(50, 1000) {
        let transport = connect(subject).await;
        let mut listener = Listener::on(&other, &topic).await;
        let mut writer = Writer::new(&transport, &topic);
        // Some transports ask the server about a topic before they send the first message to it.
        writer.send().await.expect("published");
        // Polled in this order.
        let began = Instant::now();
        let (sent, closed) = join(writer.send_batch(100, 100), transport.close()).await;
        closed.expect("closes");
        match sent {
            Ok(last) => {
                assert_eq!(last, 101);
                listener.numbers(1..=101).await;
            }
            // A busy machine may be late for that, now and then.
            Err(error) => {
                let is_late = began.elapsed() >= WAIT && late < 3;
                assert!(is_late && error.kind() == ErrorKind::UnknownOutcome, "{error}");
                late += 1;
                // Where nothing of this round can still come.
                topic = self::topic(&format!("users.{late}"));
            }
        }
    }
}

/// Fault 20: publishes as soon as a subscription is returned.
pub async fn a_message_published_as_soon_as_subscribe_returns_is_delivered(subject: &dyn Subject) {
    let reader = connect(subject).await;
    let publisher = connect(subject).await;
    let rounds = effort(2000, 100_000) / 4;
    let users = (0..4).map(|user| {
        let (reader, publisher) = (reader.clone(), publisher.clone());
        tokio::spawn(async move {
            for round in 0..rounds {
                let topic = topic(&format!("topic.{user}.{}", round % 100));
                let mut listener = Listener::on(&reader, &topic).await;
                let mut writer = Writer::new(&publisher, &topic);
                writer.send().await.expect("published");
                listener.numbers([1]).await;
            }
        })
    });
    for user in join_all(users.collect::<Vec<_>>()).await {
        user.expect("nothing is lost");
    }
}
