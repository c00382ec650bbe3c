//! What users of a single NATS see, from URL and from client, with TLS and with permissions.

mod support;

use std::future::{poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_nats::ConnectOptions;
use futures::StreamExt;
use hydratecache::cache::Replica;
use hydratecache::{Channel, ErrorKind, Event, FenceScope, Transport};
use hydratecache_nats::{NatsConfig, NatsEvents, NatsTransport};
use hydratecache_testkit::broker::{Broker, Kind};
use hydratecache_testkit::faults::support::{
    LONG, Listener, Rounds, Writer, in_time, millis, secs, topic, until,
};
use hydratecache_testkit::proxy::TlsFront;
use support::{SECRET, nats, start, with_users};
use tokio::task::coop::{consume_budget, has_budget_remaining};

#[tokio::test]
async fn a_write_reaches_a_replica_of_another_process() {
    let broker = start(nats()).await;
    let writer = NatsTransport::connect(broker.url()).await.expect("connects");
    let reader = NatsTransport::connect(broker.url()).await.expect("connects");
    assert_eq!(reader.limits().fence_scope, FenceScope::Server);
    let from = Channel::<String>::new(writer, "users").expect("legal");
    let to = Channel::<String>::new(reader, "users").expect("legal");
    let users = Replica::new();
    let hydration = to.hydrate(users.clone()).await.expect("subscribes");
    for number in 0..1000 {
        from.publish(format!("user:{number}"), &format!("name {number}")).await.expect("published");
    }
    hydration.caught_up().await.expect("caught up");
    assert_eq!(users.len(), 1000);
    assert_eq!(users.get("user:7").as_deref().map(String::as_str), Some("name 7"));
    assert!(!hydration.freshness().is_suspect());
}

/// How much of Tokio's budget the turn of this task has left, of which nothing is left then.
fn spend(cx: &mut Context<'_>, most: usize) -> usize {
    let mut spent = 0;
    while spent < most && has_budget_remaining() {
        let _ = pin!(consume_budget()).poll(cx);
        spent += 1;
    }
    spent
}

/// What `future` yields in a task that does so much in each turn that only `left` of its budget is left for it.
async fn in_a_busy_task<T>(left: usize, future: impl Future<Output = T>) -> T {
    tokio::task::yield_now().await;
    let whole = poll_fn(|cx| Poll::Ready(spend(cx, usize::MAX))).await;
    tokio::task::yield_now().await;
    let mut future = pin!(future);
    poll_fn(|cx| {
        spend(cx, whole - left);
        future.as_mut().poll(cx)
    })
    .await
}

/// A task that runs a hundred calls, as one that connects a fleet does.
#[tokio::test]
async fn calls_in_a_task_that_does_much_in_its_turn_find_no_queue_full() {
    let broker = start(nats()).await;
    for left in 1..6 {
        let calls = async {
            let transport = NatsTransport::connect(broker.url()).await.expect("connects");
            let numbers = Channel::<u32>::new(transport.clone(), "numbers").expect("legal");
            let _updates = numbers.subscribe().await.expect("subscribes");
            for number in 0..10 {
                numbers.publish("key", &number).await.expect("published");
                transport.fence().await.expect("a fence");
            }
        };
        in_time("the calls", secs(10), in_a_busy_task(left, Box::pin(calls))).await;
    }
}

/// A client of somebody's own, and the transport over it.
async fn over_a_client(broker: &Broker) -> (async_nats::Client, NatsTransport) {
    let events = NatsEvents::new();
    let heard = events.clone();
    let client = ConnectOptions::new()
        .event_callback(move |event| {
            heard.tell(&event);
            ready(())
        })
        .reconnect_delay_callback(|_| millis(50))
        .connect(broker.url())
        .await
        .expect("connects");
    let transport = NatsTransport::from_client(client.clone(), events).await.expect("connects");
    (client, transport)
}

#[tokio::test]
async fn the_callers_client_carries_everything_and_stays_open_after_close() {
    let broker = start(nats()).await;
    let (client, transport) = over_a_client(&broker).await;
    let channel = Channel::<u32>::new(transport.clone(), "numbers").expect("legal");
    let mut updates = channel.subscribe().await.expect("subscribes");
    channel.publish("one", &1).await.expect("published");
    let event = in_time("an update", LONG, updates.next()).await;
    assert!(matches!(event, Some(Event::Update(update)) if update.value() == Some(&1)));
    transport.close().await.expect("closes");
    let mut numbers = client.subscribe("numbers").await.expect("still open");
    client.publish("numbers", "2".into()).await.expect("still open");
    in_time("a message", LONG, numbers.next()).await.expect("still open");
}

#[tokio::test]
async fn a_callers_client_whose_server_is_killed_goes_on_after_a_gap_and_hoards_nothing() {
    let broker = start(nats()).await;
    let (_client, transport) = over_a_client(&broker).await;
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    let mut back = Rounds::of("to be back");
    for _ in 0..3 {
        let sent = writer.send().await.expect("published");
        listener.numbers([sent]).await;
        broker.kill9().await.expect("killed");
        listener.disrupted(LONG).await;
        let error = in_time("a publish to a dead server", millis(5500), writer.send()).await;
        let error = error.expect_err("there is no server");
        assert!(error.is_retryable(), "{error}");
        broker.start_again().await.expect("restarted");
        back.one(listener.live_then_gap(LONG)).await;
        let sent = in_time("a publish", LONG, writer.send()).await.expect("published");
        // Had the failed one waited in the client, it would come now.
        listener.lost(1).await;
        listener.numbers([sent]).await;
    }
    back.fastest_took_less_than(secs(2));
}

#[tokio::test]
async fn a_server_is_reached_over_tls_and_only_if_its_certificate_is_trusted() {
    let broker = start(nats()).await;
    // NATS speaks first in plain text unless it is told to begin with TLS, as this front does.
    let front = TlsFront::start(broker.addr(), "localhost").await.expect("a TLS front");
    let url = format!("tls://localhost:{}", front.addr().port());
    let config = NatsConfig::from_url(&url).expect("legal").with_tls_first();
    let trusting = config.clone().with_root_certificates(front.ca_pem().as_bytes()).expect("PEM");
    let transport = trusting.connect().await.expect("connects over TLS");
    transport.fence().await.expect("an echo over TLS");
    let other = TlsFront::start(broker.addr(), "localhost").await.expect("another authority");
    let wary = config.with_root_certificates(other.ca_pem().as_bytes()).expect("PEM");
    let error = wary.connect().await.expect_err("an unknown authority");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_user_gets_what_is_granted_and_a_clear_denial_of_the_rest() {
    let grants = r#"permissions: {publish: ["granted.>", "_INBOX.>"], subscribe: ["granted.>", "_INBOX.>"]}"#;
    let broker =
        start(with_users(&format!(r#"{{user: ada, password: "{SECRET}", {grants}}}"#))).await;
    let url = support::url(&broker, "ada");
    let transport = NatsTransport::connect(&url).await.expect("connects");
    let granted = Channel::<u32>::new(transport.clone(), "granted.numbers").expect("legal");
    let _updates = granted.subscribe().await.expect("granted");
    granted.publish("one", &1).await.expect("granted");
    let denied = Channel::<u32>::new(transport, "other.numbers").expect("legal");
    for _ in 0..2 {
        for error in [
            denied.subscribe().await.map(drop).expect_err("not granted"),
            denied.publish("one", &1).await.map(drop).expect_err("not granted"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!format!("{error} {error:?}").contains(SECRET));
        }
    }
    granted.publish("one", &2).await.expect("granted");
}

#[tokio::test]
async fn a_user_without_inboxes_is_told_what_to_grant_and_another_prefix_will_do() {
    let grants = r#"permissions: {publish: ["users", "app.>"], subscribe: ["users", "app.>"]}"#;
    let broker =
        start(with_users(&format!(r#"{{user: ada, password: "{SECRET}", {grants}}}"#))).await;
    let config = NatsConfig::from_url(&support::url(&broker, "ada")).expect("legal");
    let connecting = in_time("an error", secs(2), config.clone().connect());
    let error = connecting.await.expect_err("no echo ever comes back");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("_INBOX.>"), "{error}");
    let config = config.with_inbox_prefix("app.inbox").expect("legal");
    let transport = config.connect().await.expect("connects");
    let users = Channel::<u32>::new(transport, "users").expect("legal");
    let _updates = users.subscribe().await.expect("granted");
    users.publish("one", &1).await.expect("granted");
}

#[tokio::test]
async fn an_nkey_and_a_token_open_the_door_and_others_do_not() {
    let key = nkeys::KeyPair::new_user();
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}", key.public_key());
    let broker = start(Broker::builder(Kind::Nats).with_setting(users)).await;
    let config = NatsConfig::from_url(broker.url()).expect("legal");
    let seed = key.seed().expect("a seed");
    let right = config.clone().with_nkey(&seed).expect("a seed");
    right.connect().await.expect("connects").fence().await.expect("an echo");
    let other = nkeys::KeyPair::new_user().seed().expect("a seed");
    let error = config.with_nkey(&other).expect("a seed").connect().await;
    assert_eq!(error.expect_err("unknown").kind(), ErrorKind::Denied);

    let token = format!("authorization {{ token: \"{SECRET}\" }}");
    let broker = start(Broker::builder(Kind::Nats).with_setting(token)).await;
    let right = format!("nats://{SECRET}@{}", broker.addr());
    NatsTransport::connect(&right).await.expect("connects").fence().await.expect("an echo");
    let wrong = format!("nats://hunter2@{}", broker.addr());
    let error = NatsTransport::connect(&wrong).await.expect_err("a wrong token");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn an_absent_server_and_a_wrong_password_are_errors_within_five_seconds() {
    let connecting = NatsTransport::connect("nats://u:hunter2@127.0.0.1:1");
    let error = in_time("an error", secs(5), connecting).await.expect_err("nobody listens there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("hunter2"), "{shown}");

    let broker = start(nats()).await;
    let url = format!("nats://nobody:hunter2@{}", broker.addr());
    let error = NatsTransport::connect(&url).await.expect_err("a wrong password");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// Whoever listens to everything answers no echo and hides none.
#[tokio::test]
async fn a_listener_to_everything_disturbs_nobody() {
    let broker = start(nats()).await;
    let tap = support::stranger(&broker).await;
    let mut everything = tap.subscribe(">").await.expect("subscribes");
    let transport: Arc<dyn Transport> =
        Arc::new(NatsTransport::connect(broker.url()).await.expect("connects"));
    let mut listener = Listener::on(&transport, &topic("users")).await;
    let mut writer = Writer::new(&transport, &topic("users"));
    for number in 1..=100 {
        in_time("a publish", LONG, writer.send()).await.expect("published");
        listener.numbers([number]).await;
        in_time("a fence", LONG, transport.fence()).await.expect("an echo");
    }
    in_time("what is heard", LONG, everything.next()).await.expect("something");
}

#[tokio::test]
async fn the_limit_is_the_servers_and_follows_it() {
    let small = nats().with_setting("max_payload: 10000");
    let broker = start(small).await;
    let transport = NatsTransport::connect(broker.url()).await.expect("connects");
    let limit = transport.limits().max_payload_bytes;
    assert_eq!(limit, 10_000 - 1024 - 512);
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    writer.send_batch(1, limit).await.expect("at the limit");
    assert_eq!(listener.message().await.payload().len(), limit);
    let error = writer.send_batch(1, limit + 1).await.expect_err("one over");
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "{error}");
    until("no task has died", LONG, async || writer.send().await.is_ok()).await;
}
