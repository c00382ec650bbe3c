//! Bad input: what must not be sent, what arrives broken, and times that cannot be right.

use std::time::{Duration, SystemTime};

use crate::proxy::FaultProxy;
use futures::StreamExt;
use hydratecache::cache::{Hydration, Replica};
use hydratecache::{
    Channel, ErrorKind, Event, Key, Message, RejectionReason, Signal, Ttl, WallClock, wire,
};
use tokio::time::Instant;

use super::support::{
    LONG, Listener, Writer, connect, connect_via, connect_with, fence, in_time, millis, proxy,
    secs, topic, until,
};
use super::{Setup, Subject};

/// Fault 16: payloads at the limit and beyond.
pub async fn a_payload_at_the_limit_is_delivered_and_one_over_is_not_even_sent(
    subject: &dyn Subject,
) {
    for limit in subject.payload_limits() {
        let setup = Setup { max_payload_bytes: Some(limit), ..Setup::default() };
        let transport = connect_with(subject, setup).await;
        assert_eq!(transport.limits().max_payload_bytes, limit);
        let mut listener = Listener::on(&transport, &topic("users")).await;
        let mut writer = Writer::new(&transport, &topic("users"));
        writer.send_batch(1, limit).await.expect("at the limit");
        assert_eq!(listener.message().await.payload().len(), limit);
        let error = writer.send_batch(1, limit + 1).await.expect_err("one over");
        assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "{error}");
        let fence = fence(&transport).await;
        assert!(listener.before(fence).await.is_empty(), "nothing was sent");
    }
}

/// Fault 16: what nobody can decode.
pub async fn whatever_arrives_broken_is_rejected_and_the_stream_goes_on(subject: &dyn Subject) {
    let setup = Setup { max_payload_bytes: Some(TOO_LARGE / 4), ..Setup::default() };
    let transport = connect_with(subject, setup).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    for (what, body) in broken() {
        subject.inject(&topic, vec![body.into()]).await;
        let rejected = listener.next(format!("the rejection, {what}"), LONG).await;
        let Signal::Rejected(rejection) = rejected else { panic!("{what}: {rejected:?}") };
        if what == "too large" {
            assert!(
                matches!(rejection.reason(), RejectionReason::TooLarge { .. }),
                "{rejection:?}"
            );
        }
        let sent = writer.send().await.expect("published");
        listener.numbers([sent]).await;
    }
}

/// What no broker refuses, in bytes.
const TOO_LARGE: usize = 800_000;

/// Bodies that no subscriber can use.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    // Without a position: what has one is reported once, however often it comes.
    let key = Key::new("key").expect("legal");
    let good = wire::encode(&Message::put(key, b"good".as_slice().into()), None).to_vec();
    let with_version = |version: u8| {
        let at = good.windows(2).position(|field| field == [0, 1]).expect("the version's field");
        [&good[..=at], &[version], &good[at + 2..]].concat()
    };
    // A field that nobody knows, whose value is the bomb: it must be skipped, and is looked at.
    let unknown_field = |value: &[u8]| [&[0xa3, 0, 1, 1, 2, 0x18, 0x63], value].concat();
    vec![
        ("empty", vec![]),
        ("text", b"hello".to_vec()),
        ("bytes that are not UTF-8", vec![0xff, 0xfe, 0x80, 0x00]),
        ("cut off", good[..good.len() - 1].to_vec()),
        ("cut off at the start", good[..1].to_vec()),
        ("trailing bytes", [&good[..], &[0]].concat()),
        ("version 2", with_version(2)),
        ("depth 100,000", unknown_field(&vec![0x81; 100_000])),
        ("depth 100,000, indefinite", unknown_field(&vec![0x9f; 100_000])),
        ("length 2^63", unknown_field(&[&[0x5b, 0x80][..], &[0; 7]].concat())),
        ("a map of 2^63 pairs", [&[0xbb, 0x80][..], &[0; 7]].concat()),
        ("too large", vec![0xa1; TOO_LARGE]),
    ]
}

/// Fault 17: illegal topics, and legal ones that mean something to a broker.
pub async fn a_topic_gets_the_same_answer_from_publish_and_subscribe(subject: &dyn Subject) {
    let transport = connect(subject).await;
    let (long, longest, too_long) = ("x".repeat(64), "x".repeat(200), "x".repeat(300));
    let illegal = [
        "",
        "*",
        ">",
        "a*",
        "a.>",
        "a\0b",
        "^.*",
        "\";--",
        "..",
        ".a",
        "a b",
        "a\r\nPING\r\n",
        "é",
        "[ab]",
        "a?",
        "__keyspace@0__:a",
        "__keyevent@0__:del",
        &too_long,
    ];
    for name in illegal {
        let error = Channel::<u32>::new(transport.clone(), name).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidTopic, "{error}");
    }
    let legal = [
        "a",
        "-",
        ":",
        "/",
        "a/b:c_d-e.f",
        "QUIT",
        "__redis__:invalidate",
        "__redis__",
        "__sentinel__:hello",
        "__keyspace",
        "_INBOX.a",
        "_INBOX",
        &long,
        &longest,
    ];
    let (mut channels, mut listening) = (Vec::new(), Vec::new());
    for name in legal {
        let channel = Channel::<u32>::new(transport.clone(), name).expect(name);
        let updates = channel.subscribe().await;
        listening.push(updates.unwrap_or_else(|error| panic!("{name}: {error}")));
        channels.push(channel);
    }
    for (number, channel) in (0..).zip(&channels) {
        channel.publish("key", &number).await.expect("published");
    }
    for ((number, channel), updates) in (0_u32..).zip(&channels).zip(&mut listening) {
        // A sign of life may come in between.
        let update = async {
            loop {
                match updates.next().await {
                    Some(Event::Fenced(_)) => {}
                    event => return event,
                }
            }
        };
        let event = in_time(channel.topic(), LONG, update).await;
        let Some(Event::Update(update)) = event else { panic!("{}: {event:?}", channel.topic()) };
        assert_eq!(update.value(), Some(&number), "{}", channel.topic());
    }
}

const HOUR: Duration = secs(3600);

/// A replica, and a channel that writes to it.
struct Replicated {
    proxy: FaultProxy,
    writes: Channel<u32>,
    replica: Replica<u32>,
    hydration: Hydration<u32>,
}

impl Replicated {
    async fn new(subject: &dyn Subject) -> Self {
        let proxy = proxy(subject);
        let away = connect(subject).await;
        let reader = connect_via(subject, &proxy).await;
        let writes = Channel::new(away, "users").expect("legal");
        let here = Channel::<u32>::new(reader, "users").expect("legal");
        let replica = Replica::new();
        let hydration = here.hydrate(replica.clone()).await.expect("subscribes");
        Self { proxy, writes, replica, hydration }
    }

    async fn put(&self, key: &str, value: u32, start: SystemTime, duration: Duration) {
        let ttl = Ttl::new(start, duration).expect("legal");
        self.writes.put(key, &value).ttl(ttl).await.expect("published");
    }

    async fn caught_up(&self) {
        in_time("the replica", LONG, self.hydration.caught_up()).await.expect("caught up");
    }

    fn value(&self, key: &str) -> Option<u32> {
        self.replica.get(key).as_deref().copied()
    }
}

/// Fault 19: a sender's clock that is an hour ahead.
pub async fn a_senders_clock_that_is_ahead_lengthens_no_life_and_is_counted(subject: &dyn Subject) {
    let replicated = Replicated::new(subject).await;
    let ahead = SystemTime::now() + HOUR;
    replicated.put("long", 2, ahead, HOUR).await;
    replicated.put("short", 1, ahead, secs(3)).await;
    replicated.caught_up().await;
    assert_eq!(replicated.hydration.stats().from_the_future, 2);
    assert_eq!((replicated.value("short"), replicated.value("long")), (Some(1), Some(2)));
    let ended = async || replicated.value("short").is_none();
    until("three seconds of life to end", LONG, ended).await;
    assert_eq!(replicated.value("long"), Some(2));
}

/// Fault 19: a sender's clock that is an hour behind.
pub async fn a_senders_clock_that_is_behind_shortens_lives_and_never_inserts_the_dead(
    subject: &dyn Subject,
) {
    let replicated = Replicated::new(subject).await;
    let behind = SystemTime::now() - HOUR;
    replicated.writes.publish("resident", &1).await.expect("published");
    replicated.caught_up().await;
    assert_eq!(replicated.value("resident"), Some(1));
    replicated.put("resident", 2, behind, HOUR / 2).await;
    replicated.put("new", 3, behind, HOUR).await;
    replicated.put("alive", 4, behind, 2 * HOUR).await;
    replicated.caught_up().await;
    let values = ["resident", "new", "alive"].map(|key| replicated.value(key));
    assert_eq!(values, [None, None, Some(4)]);
    let stats = replicated.hydration.stats();
    assert_eq!((stats.expired_in_flight, stats.from_the_future), (2, 0));
}

/// Fault 19: clocks an hour apart. Lives end when they should all the same.
pub async fn wall_clocks_an_hour_apart_change_no_life(subject: &dyn Subject) {
    let replicated = Replicated::new(subject).await;
    let ahead = WallClock::new(|| SystemTime::now() + HOUR);
    let behind = WallClock::new(|| SystemTime::now() - HOUR);
    for (key, clock) in [("ahead", ahead), ("behind", behind)] {
        let transport = connect(subject).await;
        let builder = Channel::<u32>::builder(transport, "users").with_wall_clock(clock.clone());
        let writes = builder.build().expect("legal");
        replicated.caught_up().await;
        let (began, age, left) = (Instant::now(), secs(4), secs(4));
        let ttl = Ttl::new(clock.now() - age, age + left).expect("legal");
        writes.put(key, &1).ttl(ttl).await.expect("published");
        let acknowledged = Instant::now();
        replicated.caught_up().await;
        assert_eq!(replicated.value(key), Some(1), "{key}");
        until("the end of a life", LONG, async || replicated.value(key).is_none()).await;
        let (lived, late) = (began.elapsed(), acknowledged.elapsed().saturating_sub(left));
        assert!(lived + millis(1) >= left, "{key}: ended after {lived:?}");
        assert!(late < age.mul_f64(0.9), "{key}: late by {late:?}, as if it had begun on arrival");
    }
}

/// Fault 19: a TTL that ends before the message arrives.
pub async fn a_life_that_ends_on_the_way_invalidates_and_is_never_inserted(subject: &dyn Subject) {
    let replicated = Replicated::new(subject).await;
    // A sender's clock is told by its quickest message; where the broker keeps messages, by one behind a fence.
    for _ in 0..5 {
        replicated.caught_up().await;
        replicated.writes.publish("resident", &1).await.expect("published");
    }
    replicated.caught_up().await;
    replicated.proxy.delay(millis(600), millis(0));
    for key in ["resident", "new"] {
        replicated.put(key, 2, SystemTime::now(), millis(200)).await;
    }
    let end = async || replicated.hydration.stats().expired_in_flight == 2;
    let never = async || {
        assert_ne!(replicated.value("resident"), Some(2));
        assert_eq!(replicated.value("new"), None);
        end().await
    };
    until("both to arrive", LONG, never).await;
    replicated.caught_up().await;
    assert_eq!((replicated.value("resident"), replicated.value("new")), (None, None));
}

/// Many bad bodies cost no more than as many good ones.
pub async fn a_flood_of_garbage_hides_no_message(subject: &dyn Subject) {
    let transport = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    for round in 1..=20 {
        subject.inject(&topic, vec!["garbage".into(); 500]).await;
        writer.send().await.expect("published");
        let fence = fence(&transport).await;
        let signals = listener.before(fence).await;
        let rejected =
            signals.iter().filter(|signal| matches!(signal, Signal::Rejected(_))).count();
        assert_eq!((rejected, signals.len()), (500, 501), "round {round}");
    }
}
