//! What users of a single Redis see, from URL and from client, with TLS and with ACL users.

mod support;

use std::time::Duration;

use fred::prelude::{Builder, ClientLike};
use futures::StreamExt;
use hydratecache::cache::Replica;
use hydratecache::{Change, Channel, ErrorKind, Event, Transport};
use hydratecache_redis::{RedisConfig, RedisTransport};
use hydratecache_testkit::broker::{Broker, Kind};
use hydratecache_testkit::faults::support::LONG;
use hydratecache_testkit::proxy::TlsFront;
use support::{admin, within};

async fn redis() -> Broker {
    Broker::start(Kind::Redis).await.expect("a Redis of its own")
}

#[tokio::test]
async fn a_write_reaches_a_replica_of_another_process() {
    let broker = redis().await;
    let writer = RedisTransport::connect(broker.url()).await.expect("connects");
    let reader = RedisTransport::connect(broker.url()).await.expect("connects");
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

#[tokio::test]
async fn the_callers_client_publishes_and_stays_open_after_close() {
    let broker = redis().await;
    let config = fred::types::config::Config::from_url(broker.url()).expect("legal");
    let client = Builder::from_config(config).build().expect("builds");
    client.init().await.expect("connects");
    let transport = RedisTransport::from_client(client.clone()).await.expect("connects");
    let channel = Channel::<u32>::new(transport.clone(), "numbers").expect("legal");
    let mut updates = channel.subscribe().await.expect("subscribes");
    channel.publish("one", &1).await.expect("published");
    let event = within(LONG, updates.next()).await;
    assert!(matches!(event, Some(Event::Update(update)) if update.value() == Some(&1)));
    transport.close().await.expect("closes");
    client.ping::<String>(None).await.expect("the caller's client is still open");
}

#[tokio::test]
async fn a_server_is_reached_over_tls_and_only_if_its_certificate_is_trusted() {
    let broker = redis().await;
    let front = TlsFront::start(broker.addr(), "localhost").await.expect("a TLS front");
    let url = format!("rediss://localhost:{}", front.addr().port());
    let config = RedisConfig::from_url(&url).expect("legal");
    let trusting = config.clone().with_root_certificates(front.ca_pem().as_bytes()).expect("PEM");
    let transport = trusting.connect().await.expect("connects over TLS");
    transport.fence().await.expect("an echo over TLS");
    let other = TlsFront::start(broker.addr(), "localhost").await.expect("another authority");
    let wary = config.with_root_certificates(other.ca_pem().as_bytes()).expect("PEM");
    let error = wary.connect().await.expect_err("an unknown authority");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn an_acl_user_gets_what_is_granted_and_a_clear_denial_of_the_rest() {
    let broker = redis().await;
    admin(&broker, &["ACL", "SETUSER", "ada", "on", ">hunter2", "&granted*", "+@all"]).await;
    let url = broker.url().replace("redis://", "redis://ada:hunter2@");
    let transport = RedisTransport::connect(&url).await.expect("connects");
    let granted = Channel::<u32>::new(transport.clone(), "granted.numbers").expect("legal");
    let _updates = granted.subscribe().await.expect("granted");
    granted.publish("one", &1).await.expect("granted");
    let denied = Channel::<u32>::new(transport, "other.numbers").expect("legal");
    for error in [
        denied.subscribe().await.map(drop).expect_err("not granted"),
        denied.publish("one", &1).await.map(drop).expect_err("not granted"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_client_info_is_proven_by_a_probe() {
    let broker = redis().await;
    let rules = [
        "on",
        ">hunter2",
        "&granted",
        "-@all",
        "+subscribe",
        "+unsubscribe",
        "+publish",
        "+hello",
        "+auth",
        "+info",
    ];
    admin(&broker, &[&["ACL", "SETUSER", "ada"], &rules[..]].concat()).await;
    let url = broker.url().replace("redis://", "redis://ada:hunter2@");
    let transport = RedisTransport::connect(&url).await.expect("connects");
    let granted = Channel::<u32>::new(transport.clone(), "granted").expect("legal");
    let mut updates = granted.subscribe().await.expect("proven by a probe");
    granted.publish("one", &1).await.expect("published");
    let event = within(LONG, updates.next()).await;
    let Some(Event::Update(update)) = event else { panic!("an update, not {event:?}") };
    assert!(matches!(update.change, Change::Put(_, 1)));
    transport.fence().await.expect("a denied PING is an echo too");
    let denied = Channel::<u32>::new(transport, "denied").expect("legal");
    let error = within(LONG, denied.subscribe()).await.expect_err("not granted");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn an_absent_server_and_a_wrong_password_are_errors_within_five_seconds() {
    let error =
        within(Duration::from_secs(5), RedisTransport::connect("redis://u:hunter2@127.0.0.1:1"))
            .await
            .expect_err("nobody listens there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("hunter2"), "{shown}");

    let broker = redis().await;
    let url = broker.url().replace("redis://", "redis://nobody:hunter2@");
    let error = RedisTransport::connect(&url).await.expect_err("a wrong password");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
