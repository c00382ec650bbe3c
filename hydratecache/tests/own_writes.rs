//! The promise of tokens: who has one and waits for it reads that write, or a later one.

mod support;

use std::num::NonZeroU64;
use std::time::Duration;

use futures::future::join_all;
use hydratecache::cache::{GapAction, Replica};
use hydratecache::memory::MemoryBroker;
use hydratecache::{
    Channel, ErrorKind, FenceScope, Hydrated, Key, Message, Origin, Position, Token, Transport,
};
use support::{Scene, Table, within};
use tokio::time::{Instant, sleep};

type Users = Hydrated<String, Replica<String>>;

impl Scene {
    /// Without fences on an interval, so that those on demand can be counted.
    async fn users(&self, on_gap: GapAction, table: Option<&Table>) -> Users {
        let builder = Hydrated::builder(self.reader(), Replica::new()).with_hydration(|hydrate| {
            let hydrate = hydrate.with_fence_interval(Duration::from_secs(86_400)).on_gap(on_gap);
            hydrate.with_reload_jitter(Duration::from_secs(5))
        });
        let builder = match table {
            Some(table) => builder.source(table.clone()),
            None => builder,
        };
        let users = builder.start().await.expect("starts");
        within(users.ready()).await.expect("the table can be read");
        within(users.caught_up()).await.expect("the link is whole");
        users
    }

    async fn publish(&self, key: &str, value: &str) -> Token {
        self.writer.publish(key, &value.to_owned()).await.expect("accepted").into()
    }
}

fn read(users: &Users, key: &str) -> Option<String> {
    users.get(key).map(|read| read.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_waited_for_is_read_in_every_process() {
    let broker = MemoryBroker::new();
    let writer = Channel::<String>::new(broker.connect(), "users").expect("legal");
    let mut fleet = Vec::new();
    for _ in 0..4 {
        let reader = Channel::<String>::new(broker.connect(), "users").expect("legal");
        fleet.push(Hydrated::builder(reader, Replica::new()).start().await.expect("starts"));
    }
    for number in 0..500 {
        let value = number.to_string();
        let text = Token::from(writer.publish("a", &value).await.expect("accepted")).to_string();
        join_all(fleet.iter().map(|users| {
            let (text, value) = (&text, &value);
            async move {
                let token: Token = text.parse().expect("a token's text");
                within(users.wait_for(token)).await.expect("it arrives");
                assert_eq!(read(users, "a").as_ref(), Some(value));
            }
        }))
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_there_already_costs_nothing_and_one_under_way_a_fence_at_most() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.users(GapAction::Clear, None).await;
    let token = scene.publish("a", "Ada").await;
    let fences = scene.watched.fences();
    within(users.wait_for(token)).await.expect("it arrives");
    assert!(scene.watched.fences() <= fences + 1);
    let fences = scene.watched.fences();
    for _ in 0..100 {
        within(users.wait_for(token)).await.expect("it is there");
    }
    assert_eq!(scene.watched.fences(), fences);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_lost_is_waited_for_until_it_is_repaired() {
    let scene = Scene::new(FenceScope::Process);
    let table = Table::default();
    table.write("a", "old", None);
    let users = scene.users(GapAction::Reload, Some(&table)).await;
    scene.link.cut();
    table.write("a", "new", None);
    let token = scene.publish("a", "new").await;
    scene.link.heal();
    // One behind it arrives, which shows that it is behind us and not that it is here.
    table.write("b", "Bob", None);
    let behind = scene.publish("b", "Bob").await;
    within(users.caught_up()).await.expect("the link is whole");
    assert_eq!(read(&users, "a").as_deref(), Some("old"), "the repair rests first");
    for token in [token, behind] {
        let fresh = within(users.wait_for(token)).await.expect("it is repaired");
        assert!(!fresh.is_suspect());
        assert_eq!(read(&users, "a").as_deref(), Some("new"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_from_before_the_replica_began_is_in_what_it_began_with() {
    let scene = Scene::new(FenceScope::Process);
    let table = Table::default();
    table.write("a", "Ada", None);
    let token = scene.publish("a", "Ada").await;
    let users = scene.users(GapAction::Reload, Some(&table)).await;
    within(users.wait_for(token)).await.expect("a fence shows it");
    assert_eq!(read(&users, "a").as_deref(), Some("Ada"));
}

#[tokio::test(start_paused = true)]
async fn where_a_fence_proves_nothing_the_write_itself_does() {
    let scene = Scene::new(FenceScope::ClusterMember);
    let users = scene.users(GapAction::Clear, None).await;
    let token = scene.publish("a", "Ada").await;
    within(users.wait_for(token)).await.expect("it arrives");
    assert_eq!(read(&users, "a").as_deref(), Some("Ada"));
    let origin = Origin::from_u64(7).expect("not zero");
    let foreign = Token::from(Position { origin, sequence: NonZeroU64::MIN });
    let called = Instant::now();
    let error = users.wait_for(foreign).await.expect_err("nobody wrote it");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(called.elapsed() < Duration::from_secs(31));
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_that_was_ignored_no_write_is_known_to_be_here() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.users(GapAction::Ignore, None).await;
    scene.link.cut();
    let token = scene.publish("a", "lost").await;
    scene.link.heal();
    let error = within(users.wait_for(token)).await.expect_err("it was lost");
    assert_eq!(error.kind(), ErrorKind::Unproven);
}

#[tokio::test(start_paused = true)]
async fn while_the_link_is_lost_and_once_it_is_closed_a_wait_ends() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.users(GapAction::Clear, None).await;
    scene.link.cut();
    let token = scene.publish("a", "Ada").await;
    let error = within(users.wait_for(token)).await.expect_err("no fence comes back");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    scene.link.close().await.expect("closes");
    let error = within(users.wait_for(token)).await.expect_err("nothing comes any more");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_value_is_still_being_loaded_is_waited_for() {
    for scope in [FenceScope::Process, FenceScope::ClusterMember] {
        let scene = Scene::new(scope);
        let table = Table::default();
        let users = scene.users(GapAction::Reload, Some(&table)).await;
        table.hold();
        table.write("a", "large", None);
        let origin = Origin::from_u64(7).expect("not zero");
        let position = Position { origin, sequence: NonZeroU64::MIN };
        let message = Message::invalidate(Key::new("a").expect("legal")).with_position(position);
        let topic = scene.writer.topic().clone();
        scene.watched.publish(topic, vec![message]).await.expect("accepted");
        let waiter = users.clone();
        let waiting = tokio::spawn(async move { waiter.wait_for(position).await });
        table.begun().await;
        sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished(), "{scope:?}");
        table.let_go(1);
        within(waiting).await.expect("no panic").expect("it is loaded");
        assert_eq!(read(&users, "a").as_deref(), Some("large"), "{scope:?}");
    }
}
