//! The promise of `applied_by`: a replica that is said to have a write gives it, or a later one, to whoever
//! reads there; and one that can be reached and does not have it is named.

mod support;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use futures::StreamExt;
use hydratecache::cache::{GapAction, Replica};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    AppliedBy, Channel, ErrorKind, FenceScope, Hydrated, Key, Kind, Message, Origin, Position,
    Request, Signal, Token, Topic, Transport,
};
use support::{Scene, Table, within};
use tokio::time::{Instant, timeout};

type Users = Hydrated<String, Replica<String>>;

const LIMIT: Duration = Duration::from_secs(5);

/// A replica over a link of its own, which can be cut.
struct Member {
    users: Users,
    link: MemoryTransport,
}

async fn member(broker: &MemoryBroker, name: &str, on_gap: GapAction) -> Member {
    let link = broker.connect();
    let channel = Channel::new(link.clone(), "users").expect("legal");
    let users = Hydrated::builder(channel, Replica::new())
        .with_hydration(|hydrate| hydrate.with_name(name).on_gap(on_gap))
        .start()
        .await
        .expect("starts");
    within(users.caught_up()).await.expect("the link is whole");
    Member { users, link }
}

async fn fleet(broker: &MemoryBroker, count: usize) -> Vec<Member> {
    let mut fleet = Vec::new();
    for number in 0..count {
        fleet.push(member(broker, &format!("replica-{number}"), GapAction::Clear).await);
    }
    fleet
}

fn writer(broker: &MemoryBroker) -> Channel<String> {
    Channel::new(broker.connect(), "users").expect("legal")
}

fn names(replicas: &[hydratecache::ReplicaId]) -> BTreeSet<String> {
    let name = |id: &hydratecache::ReplicaId| id.name.as_deref().unwrap_or("").to_owned();
    replicas.iter().map(name).collect()
}

async fn asked(
    writer: &Channel<String>,
    token: impl Into<Token> + Send,
    count: usize,
) -> AppliedBy {
    within(writer.applied_by(token, count, LIMIT)).await.expect("asked")
}

#[tokio::test(start_paused = true)]
async fn whoever_only_looks_is_not_counted() {
    let broker = MemoryBroker::new();
    let (_fleet, writer) = (fleet(&broker, 1).await, writer(&broker));
    let reader = Channel::<String>::new(broker.connect(), "users").expect("legal");
    let looking = Replica::new();
    let observer = reader.hydrate(looking.clone()).with_name("observer").as_observer();
    let observer = observer.await.expect("starts");
    within(observer.caught_up()).await.expect("the link is whole");
    let token = writer.publish("a", &"Ada".to_owned()).await.expect("accepted");
    let limit = Duration::from_secs(1);
    let asked = within(writer.applied_by(token, 2, limit)).await.expect("asked");
    assert_eq!((names(&asked.applied).len(), asked.lacking.len()), (1, 0), "{asked:?}");
    assert!(looking.get("a").is_some(), "it has the write, and was not asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_said_to_have_a_write_gives_it() {
    let broker = MemoryBroker::new();
    let (fleet, writer) = (fleet(&broker, 4).await, writer(&broker));
    for number in 0..20 {
        let value = number.to_string();
        let token = writer.publish("a", &value).await.expect("accepted");
        let asked = writer.applied_by(token, 4, Duration::from_secs(30)).await.expect("asked");
        assert!(asked.is_enough() && asked.lacking.is_empty(), "{asked:?}");
        assert_eq!(names(&asked.applied).len(), 4);
        for member in &fleet {
            let read = member.users.get("a").map(|read| read.to_string());
            assert_eq!(read.as_ref(), Some(&value));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_is_not_counted_and_the_others_are() {
    let broker = MemoryBroker::new();
    let (fleet, writer) = (fleet(&broker, 3).await, writer(&broker));
    fleet[1].link.cut();
    let token = writer.publish("a", &"1".to_owned()).await.expect("accepted");
    let begun = Instant::now();
    let some = asked(&writer, token, 2).await;
    assert!(some.is_enough() && begun.elapsed() < Duration::from_millis(100));
    let all = asked(&writer, token, 3).await;
    assert!(!all.is_enough() && begun.elapsed() < LIMIT + Duration::from_secs(1));
    assert_eq!(names(&all.applied), ["replica-0".to_owned(), "replica-2".to_owned()].into());
    assert!(all.lacking.is_empty(), "nobody heard from it");
    fleet[1].link.heal();
    assert!(asked(&writer, token, 3).await.is_enough(), "its gap was repaired");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_in_time_is_waited_for() {
    let broker = MemoryBroker::new();
    let (fleet, writer) = (fleet(&broker, 2).await, writer(&broker));
    fleet[1].link.cut();
    let token = writer.publish("a", &"1".to_owned()).await.expect("accepted");
    let link = fleet[1].link.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        link.heal();
    });
    let begun = Instant::now();
    assert!(asked(&writer, token, 2).await.is_enough());
    let took = begun.elapsed();
    assert!((2..4).contains(&took.as_secs()), "the question is repeated: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_tell_and_one_whose_value_is_still_loading_are_named() {
    let broker = MemoryBroker::new();
    let writer = writer(&broker);
    let ignorant = member(&broker, "ignorant", GapAction::Ignore).await;
    ignorant.link.cut();
    writer.publish("b", &"lost".to_owned()).await.expect("accepted");
    ignorant.link.heal();
    within(ignorant.users.caught_up()).await.expect("the link is whole");
    let table = Table::default();
    let channel = Channel::new(broker.connect(), "users").expect("legal");
    let loading = Hydrated::builder(channel, Replica::new())
        .with_hydration(|hydrate| hydrate.with_name("loading"))
        .source(table.clone())
        .start()
        .await
        .expect("starts");
    within(loading.ready()).await.expect("the table can be read");
    table.hold();
    table.write("a", "large", None);
    let origin = Origin::from_u64(7).expect("not zero");
    let position = Position { origin, sequence: NonZeroU64::MIN };
    let message = Message::invalidate(Key::new("a").expect("legal")).with_position(position);
    let topic = Topic::new("users").expect("legal");
    broker.connect().publish(topic, vec![message]).await.expect("accepted");
    let all = asked(&writer, position, 1).await;
    assert!(!all.is_enough(), "{all:?}");
    assert_eq!(names(&all.lacking), ["ignorant".to_owned(), "loading".to_owned()].into());
    table.let_go(1);
    let all = asked(&writer, position, 1).await;
    assert_eq!(names(&all.applied), ["loading".to_owned()].into());
    assert_eq!(loading.get("a").map(|read| read.to_string()).as_deref(), Some("large"));
}

/// A large fleet that is asked for a few must not answer as a whole.
#[tokio::test(start_paused = true)]
async fn once_enough_have_answered_the_others_are_silent() {
    let broker = MemoryBroker::new();
    let (_fleet, writer) = (fleet(&broker, 200).await, writer(&broker));
    let listener = broker.connect();
    let topic = Topic::new("users").expect("legal");
    let mut heard = listener.subscribe(topic).await.expect("subscribed");
    let token = writer.publish("a", &"1".to_owned()).await.expect("accepted");
    assert!(asked(&writer, token, 3).await.is_enough());
    let mut answers = 0;
    while let Ok(Some(signal)) = timeout(Duration::from_secs(1), heard.next()).await {
        if let Signal::Message(message) = signal
            && message.kind() == Kind::Request
        {
            let request = Request::decode(message.payload());
            answers += usize::from(matches!(request, Some(Request::Has { .. })));
        }
    }
    assert!((3..60).contains(&answers), "{answers} answers");
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_little_is_told_and_a_closed_transport_ends_the_wait() {
    let scene = Scene::new(FenceScope::Process);
    let token = Token::from(scene.writer.publish("a", &"1".to_owned()).await.expect("accepted"));
    let reader = scene.reader();
    for (count, limit) in [(0, LIMIT), (1, Duration::ZERO), (1, Duration::from_micros(900))] {
        let error = reader.applied_by(token, count, limit).await.expect_err("nothing to ask");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let waiting = tokio::spawn(async move { reader.applied_by(token, 1, LIMIT).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.link.close().await.expect("closes");
    let error = within(waiting).await.expect("no panic").expect_err("nothing comes any more");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_name_that_is_empty_or_too_long_is_refused() {
    for name in [String::new(), "n".repeat(101)] {
        let channel = Channel::<String>::new(MemoryTransport::new(), "users").expect("legal");
        let error = channel.hydrate(Replica::new()).with_name(name).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
