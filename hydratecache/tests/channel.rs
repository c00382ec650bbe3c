//! The promises of `Channel`, over the in-process transport.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use hydratecache::cache::{Hydration, Replica};
use hydratecache::codec::FnCodec;
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Change, Channel, Draft, ErrorKind, Event, Key, Message, RejectionReason, Signal, Topic,
    TraceParent, Transport, Ttl, Update, Updates, Version, VersionDomain,
};
use static_assertions::assert_impl_all;

assert_impl_all!(Channel<String>: Send, Sync, Clone);
assert_impl_all!(Updates<String>: Send);
assert_impl_all!(Hydration<String>: Send, Sync);
assert_impl_all!(Replica<String>: Send, Sync, Clone);
assert_impl_all!(hydratecache::Publish: Send, Unpin);
assert_impl_all!(hydratecache::Error: Send, Sync, Clone, std::error::Error);
assert_impl_all!(hydratecache::Subscription: Send, Unpin);
assert_impl_all!(MemoryTransport: Send, Sync, Clone);

const LIMIT: Duration = Duration::from_secs(5);

fn channel(broker: &MemoryBroker) -> Channel<String> {
    Channel::new(broker.connect(), "users").expect("legal")
}

fn by_caller(broker: &MemoryBroker) -> Channel<String> {
    let builder = Channel::builder(broker.connect(), "users");
    builder.with_versions(VersionDomain::Caller).build().expect("legal")
}

async fn event<T: 'static>(updates: &mut Updates<T>) -> Event<T> {
    let next = tokio::time::timeout(LIMIT, updates.next()).await;
    next.expect("an event within the limit").expect("the stream goes on")
}

async fn update<T: std::fmt::Debug + 'static>(updates: &mut Updates<T>) -> Update<T> {
    match event(updates).await {
        Event::Update(update) => update,
        other => panic!("an update, not {other:?}"),
    }
}

#[tokio::test]
async fn requests_use_no_number_and_are_shown_to_no_user() {
    let broker = MemoryBroker::new();
    let (writer, reader) = (channel(&broker), channel(&broker));
    let mut updates = reader.subscribe().await.expect("ok");
    let replica = Replica::new();
    let hydration = reader.hydrate(replica.clone()).await.expect("started");
    writer.publish("a", &"one".to_owned()).await.expect("published");
    let origin = hydratecache::Origin::random();
    let unknown = Message::request(origin, Bytes::from_static(b"\xa1\x00\x18\xff")).expect("a map");
    writer.transport().publish(writer.topic().clone(), vec![unknown]).await.expect("published");
    writer.publish("b", &"two".to_owned()).await.expect("published");
    for expected in ["a", "b"] {
        assert_eq!(update(&mut updates).await.key().map(Key::as_str), Some(expected));
    }
    hydration.caught_up().await.expect("a fence");
    let stats = hydration.stats();
    assert_eq!((stats.received, stats.requests_unknown, stats.gaps, replica.len()), (2, 1, 0, 2));
}

fn kind<T>(outcome: Result<T, hydratecache::Error>) -> ErrorKind {
    outcome.err().expect("an error").kind()
}

#[tokio::test]
async fn every_kind_of_write_arrives_as_it_was_written() {
    let broker = MemoryBroker::new();
    let (writer, mut updates) = (channel(&broker), channel(&broker).subscribe().await.expect("ok"));
    let ttl = Ttl::starting_now(Duration::from_millis(1500)).expect("legal");
    writer.put("a", &"one".to_owned()).ttl(ttl).await.expect("published");
    writer.touch("a", ttl).await.expect("published");
    writer.remove("a").await.expect("published");
    let cleared = writer.clear().await.expect("published");

    let put = update(&mut updates).await;
    assert_eq!((put.value().map(String::as_str), put.ttl), (Some("one"), Some(ttl)));
    let touch = update(&mut updates).await;
    assert!(matches!(&touch.change, Change::Touch(key) if key.as_str() == "a"));
    assert_eq!(touch.ttl, Some(ttl));
    assert!(matches!(update(&mut updates).await.change, Change::Remove(_)));
    let clear = update(&mut updates).await;
    assert_eq!((&clear.change, clear.version), (&Change::Clear, cleared.version));
    assert!(put.version.number() < touch.version.number(), "the clock orders writes");
    assert_eq!(clear.origin, Some(cleared.position.origin));
    assert_eq!(cleared.position.sequence.get(), 4);
}

#[tokio::test]
async fn bad_input_is_an_error_of_its_own_kind_and_nothing_is_sent() {
    let broker = MemoryBroker::new();
    let users = channel(&broker);
    let mut updates = users.subscribe().await.expect("subscribes");
    let name = "Ada".to_owned();
    let ttl = Ttl::starting_now(LIMIT).expect("legal");
    let topic = Channel::<String>::new(broker.connect(), "a b");
    assert_eq!(kind(topic), ErrorKind::InvalidTopic);
    assert_eq!(kind(users.publish("", &name).await), ErrorKind::InvalidKey);
    assert_eq!(kind(users.publish("k".repeat(1025), &name).await), ErrorKind::InvalidKey);
    assert_eq!(kind(users.put("a", &name).version(1).await), ErrorKind::InvalidVersion);
    assert_eq!(kind(users.remove("a").ttl(ttl).await), ErrorKind::InvalidTtl);
    assert_eq!(kind(by_caller(&broker).publish("a", &name).await), ErrorKind::InvalidVersion);
    assert_eq!(kind(by_caller(&broker).clear().await), ErrorKind::InvalidVersion);

    let codec = FnCodec::new(|v: &Vec<u8>| Ok(v.clone().into()), |b: &Bytes| Ok(b.to_vec()));
    let large = Channel::builder_with_codec(broker.connect(), "users", codec);
    let oversize = vec![0; MemoryTransport::MAX_PAYLOAD_BYTES + 1];
    let error = large.build().expect("legal").publish("big", &oversize).await;
    let error = error.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    assert!(error.to_string().contains("\"big\""), "{error}");

    users.publish("good", &name).await.expect("published");
    let first = update(&mut updates).await;
    assert_eq!(first.key().map(Key::as_str), Some("good"), "the first to arrive");
}

#[tokio::test]
async fn a_closed_transport_says_so_and_ends_streams() {
    let transport = MemoryTransport::new();
    let users = Channel::<String>::new(transport.clone(), "users").expect("legal");
    let mut updates = users.subscribe().await.expect("subscribes");
    transport.close().await.expect("closes");
    assert!(updates.next().await.is_none());
    assert_eq!(kind(users.publish("a", &"x".to_owned()).await), ErrorKind::Closed);
    assert_eq!(kind(users.subscribe().await), ErrorKind::Closed);
}

#[cfg(feature = "json")]
#[tokio::test]
async fn an_undecodable_payload_is_rejected_by_key_without_its_content() {
    let broker = MemoryBroker::new();
    let texts = Channel::<String>::new(broker.connect(), "mixed").expect("legal");
    let numbers = Channel::<u64>::new(broker.connect(), "mixed").expect("legal");
    let json = hydratecache::codec::Json;
    let json = Channel::<u64>::builder_with_codec(broker.connect(), "mixed", json);
    let mut updates = numbers.subscribe().await.expect("subscribes");
    texts.publish("a", &"very secret".to_owned()).await.expect("published");
    json.build().expect("legal").publish("b", &7).await.expect("published");
    numbers.publish("c", &7).await.expect("published");
    let Event::Rejected(rejection) = event(&mut updates).await else { panic!("a rejection") };
    let shown = format!("{rejection} {rejection:?}");
    assert_eq!(rejection.key().map(Key::as_str), Some("a"));
    assert!(shown.contains("u64") && !shown.contains("secret"), "{shown}");
    let Event::Rejected(rejection) = event(&mut updates).await else { panic!("a rejection") };
    assert!(rejection.to_string().contains("application/json"), "{rejection}");
    assert_eq!(update(&mut updates).await.value(), Some(&7), "the stream goes on");
    assert_eq!(numbers.stats().rejected, 2);
}

#[tokio::test]
async fn versions_of_the_other_domain_and_of_the_far_future_are_rejected() {
    let broker = MemoryBroker::new();
    let raw = broker.connect();
    let topic = Topic::new("users").expect("legal");
    let mut by_clock = channel(&broker).subscribe().await.expect("subscribes");
    let mut by_number = by_caller(&broker).subscribe().await.expect("subscribes");
    let put = || Message::put(Key::new("a").expect("legal"), Bytes::from_static(&[0x61, 0x61]));

    let numbered = vec![put().with_version(Version::caller(1))];
    raw.publish(topic.clone(), numbered).await.expect("published");
    let Event::Rejected(rejection) = event(&mut by_clock).await else { panic!("a rejection") };
    assert!(matches!(rejection.reason(), RejectionReason::WrongVersionDomain { .. }));
    assert_eq!(update(&mut by_number).await.version, Version::caller(1));

    let future = vec![put().with_version(Version::clock(u64::MAX, None))];
    raw.publish(topic.clone(), future).await.expect("published");
    let Event::Rejected(rejection) = event(&mut by_clock).await else { panic!("a rejection") };
    assert!(matches!(rejection.reason(), RejectionReason::VersionFromTheFuture));
    assert!(matches!(event(&mut by_number).await, Event::Rejected(_)));

    raw.publish(topic, vec![put()]).await.expect("published");
    assert_eq!(update(&mut by_clock).await.origin, None, "ordered by its arrival");
    assert!(matches!(event(&mut by_number).await, Event::Rejected(_)));
}

#[tokio::test]
async fn a_stream_is_published_whole_in_order_and_its_first_error_says_how_far_it_came() {
    let broker = MemoryBroker::new();
    let (writer, mut updates) = (channel(&broker), channel(&broker).subscribe().await.expect("ok"));
    let drafts = (0..2000).map(|n| (format!("k{n}"), format!("v{n}")));
    assert_eq!(writer.publish_all(stream::iter(drafts)).await.expect("published"), 2000);
    for n in 0..2000 {
        assert_eq!(update(&mut updates).await.value(), Some(&format!("v{n}")));
    }
    assert!(writer.stats().batches < 20, "{:?}", writer.stats());

    let drafts = (0..300).map(|n| Draft::new(if n == 290 { "" } else { "k" }, format!("v{n}")));
    let error = writer.publish_all(stream::iter(drafts)).await.expect_err("an empty key");
    assert_eq!(error.kind(), ErrorKind::InvalidKey);
    assert!(error.to_string().contains("after 290 published"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishes_are_numbered_in_their_order_without_gaps() {
    let broker = MemoryBroker::new();
    let (writer, mut updates) = (channel(&broker), channel(&broker).subscribe().await.expect("ok"));
    let publish = |task: usize| {
        let writer = writer.clone();
        tokio::spawn(async move {
            let mut sequences = BTreeSet::new();
            for n in 0..50 {
                let receipt = writer.publish(format!("t{task}"), &n.to_string()).await;
                sequences.insert(receipt.expect("published").position.sequence.get());
            }
            sequences
        })
    };
    let receipts = futures::future::join_all((0..64).map(publish)).await;
    let all: BTreeSet<u64> =
        receipts.into_iter().flat_map(|task| task.expect("no panic")).collect();
    assert_eq!(all, (1..=3200).collect());
    let mut next = HashMap::new();
    for _ in 0..3200 {
        let Change::Put(key, value) = update(&mut updates).await.change else { panic!("a put") };
        let expected = next.entry(key).or_insert(0);
        assert_eq!(value, expected.to_string(), "each publisher's order");
        *expected += 1;
    }
}

#[tokio::test]
async fn a_publish_that_is_dropped_holds_up_nobody() {
    let broker = MemoryBroker::new();
    let (writer, mut updates) = (channel(&broker), channel(&broker).subscribe().await.expect("ok"));
    for polls in 0..4 {
        let mut publish = Box::pin(writer.publish("dropped", &"x".to_owned()));
        for _ in 0..polls {
            if futures::poll!(&mut publish).is_ready() {
                break;
            }
        }
        drop(publish);
        writer.publish("kept", &polls.to_string()).await.expect("published");
    }
    let mut kept = 0;
    while kept < 4 {
        kept += u32::from(update(&mut updates).await.key().map(Key::as_str) == Some("kept"));
    }
    tokio::time::timeout(LIMIT, writer.flush()).await.expect("nothing is under way");
}

#[tokio::test]
async fn a_failed_publish_shows_as_a_gap_to_those_who_missed_it() {
    let broker = MemoryBroker::new();
    let link = broker.connect();
    let writer = Channel::<String>::new(link.clone(), "users").expect("legal");
    let mut updates = channel(&broker).subscribe().await.expect("subscribes");
    writer.publish("a", &"1".to_owned()).await.expect("published");
    link.cut();
    assert_eq!(kind(writer.publish("a", &"2".to_owned()).await), ErrorKind::Unavailable);
    link.heal();
    writer.publish("b", &"3".to_owned()).await.expect("published");
    update(&mut updates).await;
    assert!(matches!(event(&mut updates).await, Event::Gap(gap) if gap.exact() == Some(1)));
    update(&mut updates).await;
    assert_eq!(writer.stats().failed, 1);
}

#[tokio::test]
async fn what_the_link_lost_of_one_publisher_does_not_hide_what_another_failed_to_publish() {
    let broker = MemoryBroker::new();
    let (here, link) = (broker.connect(), broker.connect());
    let reader = Channel::<String>::new(here.clone(), "users").expect("legal");
    let mut updates = reader.subscribe().await.expect("subscribes");
    let writer = Channel::<String>::new(link.clone(), "users").expect("legal");
    let gone = channel(&broker);
    for channel in [&gone, &writer] {
        channel.publish("a", &"1".to_owned()).await.expect("published");
        update(&mut updates).await;
    }
    here.cut();
    gone.publish("a", &"2".to_owned()).await.expect("published");
    here.heal();
    link.cut();
    assert_eq!(kind(writer.publish("b", &"3".to_owned()).await), ErrorKind::Unavailable);
    link.heal();
    writer.publish("c", &"4".to_owned()).await.expect("published");
    let mut gaps = Vec::new();
    loop {
        match event(&mut updates).await {
            Event::Gap(gap) => gaps.push(gap.exact()),
            Event::Update(_) => break,
            _ => {}
        }
    }
    assert_eq!(gaps, [Some(1), Some(1)], "the one of the link, and the one of its number");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_tell_of_a_failed_last_message_at_once_and_grow_ever_rarer() {
    let broker = MemoryBroker::new();
    let link = broker.connect();
    let writer = Channel::<String>::new(link.clone(), "users").expect("legal");
    let mut updates = channel(&broker).subscribe().await.expect("subscribes");
    writer.publish("a", &"1".to_owned()).await.expect("published");
    update(&mut updates).await;
    link.cut();
    assert_eq!(kind(writer.publish("a", &"2".to_owned()).await), ErrorKind::Unavailable);
    link.heal();
    let began = tokio::time::Instant::now();
    let gap = tokio::time::timeout(Duration::from_secs(60), updates.next()).await;
    assert!(matches!(gap, Ok(Some(Event::Gap(gap))) if gap.exact() == Some(1)));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let before = writer.stats().batches;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let sent = writer.stats().batches - before;
    assert!((12..=20).contains(&sent), "{sent} heartbeats in an hour");

    // A publish after a long silence is followed by a heartbeat as soon as the first one was.
    let before = writer.stats().batches;
    writer.publish("b", &"3".to_owned()).await.expect("published");
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(
        writer.stats().batches - before,
        3,
        "the publish, and heartbeats after 5 s and 15 s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_pauses_holds_up_nothing_that_it_yielded() {
    let broker = MemoryBroker::new();
    let (writer, mut updates) = (channel(&broker), channel(&broker).subscribe().await.expect("ok"));
    let first = stream::iter([("a".to_owned(), "1".to_owned())]);
    let publishing = writer.publish_all(first.chain(stream::pending()));
    tokio::select! {
        outcome = publishing => panic!("the stream has not ended: {outcome:?}"),
        update = update(&mut updates) => assert_eq!(update.value().map(String::as_str), Some("1")),
    }
}

#[tokio::test]
async fn a_trace_travels_with_its_message() {
    let broker = MemoryBroker::new();
    let topic = Topic::new("users").expect("legal");
    let reader = broker.connect();
    let mut signals = reader.subscribe(topic).await.expect("subscribes");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace: TraceParent = trace.parse().expect("legal");
    let users = channel(&broker);
    users.put("a", &"1".to_owned()).trace_parent(trace).await.expect("published");
    let Some(Signal::Message(message)) = signals.next().await else { panic!("a message") };
    assert_eq!(message.trace_parent(), Some(trace));
}

#[tokio::test]
async fn for_each_hands_over_every_event_until_the_transport_closes() {
    let transport = MemoryTransport::new();
    let users = Channel::<String>::new(transport.clone(), "users").expect("legal");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (reader, log) = (users.clone(), seen.clone());
    let reading = tokio::spawn(async move {
        let handle = |event| {
            log.lock().expect("no panic").push(format!("{event:?}"));
            std::future::ready(())
        };
        reader.for_each(handle).await
    });
    // The reader's subscription is seen by what it receives.
    while seen.lock().expect("no panic").is_empty() {
        users.publish("a", &"1".to_owned()).await.expect("published");
        tokio::task::yield_now().await;
    }
    transport.close().await.expect("closes");
    let ended = tokio::time::timeout(LIMIT, reading).await.expect("ends").expect("no panic");
    ended.expect("a closed transport is a good end");
}

#[test]
fn a_ttl_keeps_its_start_to_the_microsecond() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    let ttl = Ttl::new(start, Duration::from_micros(1)).expect("legal");
    assert_eq!((ttl.start(), ttl.duration()), (start, Duration::from_micros(1)));
}
