//! The promise of repairs by another replica that nobody forgets by one what it was told: of rows whose publish
//! failed, some know and some do not.

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hydratecache::cache::{Freshness, GapAction, Replica};
use hydratecache::memory::MemoryTransport;
use hydratecache::wire::{Rejection, RejectionReason};
use hydratecache::{
    Channel, Gap, Hydrated, Message, Origin, Position, Request, Transport, VersionDomain,
};
use support::fleet::{
    DOMAINS, Scene, Tapped, Users, channel, cut, linked, on, repaired, small, value,
};
use support::restart::Broker;
use support::within;
use tokio::time::sleep;

/// A writer, one replica that was told of it, and one that was not.
struct Parties {
    writer: Channel<String>,
    is_refused: Arc<AtomicBool>,
    /// That of the one that was told, and cut.
    link: MemoryTransport,
    told: Users,
    untold: Users,
}

async fn parties(scene: &Scene) -> Parties {
    let (tapped, is_refused) = Tapped::refusing(scene.broker.connect());
    let writer = channel(tapped, scene.versions);
    let (link, told) = linked(scene).await;
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    within(told.caught_up()).await.expect("the link is whole");
    // Nobody is there to copy from, and the writer says nothing meanwhile.
    cut(&link, &told).await;
    let untold = scene.users().await;
    Parties { writer, is_refused, link, told, untold }
}

/// What a link counts as lost excuses no number: a publish that failed afterwards is told of to all.
#[tokio::test(start_paused = true)]
async fn a_publish_that_failed_behind_a_counted_loss_is_repaired_everywhere() {
    let scene = Scene::new(VersionDomain::Caller, 50);
    let (link, is_refused) = Tapped::refusing(scene.broker.connect());
    // It listens to nobody, so nobody can ask it.
    let writer = channel(link, scene.versions);
    let ((_, whole), (link, counted)) = (linked(&scene).await, linked(&scene).await);
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    scene.put(2, 2).await;
    for users in [&whole, &counted] {
        scene.check(users).await;
    }
    cut(&link, &counted).await;
    scene.put(2, 3).await;
    scene.put(3, 2).await;
    link.heal();
    repaired(&counted).await;
    scene.check(&counted).await;
    scene.fail_by(&writer, &is_refused, 1, 3).await;
    let gaps = [&whole, &counted].map(|users| users.stats().gaps);
    scene.put_by(&writer, 5, 2).await.expect("accepted");
    for (users, gaps) in [&whole, &counted].into_iter().zip(gaps) {
        within(users.caught_up()).await.expect("the link is whole");
        assert_eq!(users.stats().gaps, gaps + 1, "it is told");
        repaired(users).await;
        scene.check(users).await;
    }
}

/// A sender that began to listen behind a loss does not know of it.
#[tokio::test(start_paused = true)]
async fn what_the_other_replica_was_not_told_of_is_read_from_the_source() {
    let scene = Scene::new(VersionDomain::Caller, 50);
    let Parties { writer, is_refused, link, told, untold } = parties(&scene).await;
    assert_eq!(untold.stats().reloads, 1);
    link.heal();
    repaired(&told).await;
    assert_eq!(told.stats().reloads + told.stats().copies, 1, "nothing was lost");
    scene.fail_by(&writer, &is_refused, 1, 3).await;
    sleep(Duration::from_secs(10)).await;
    repaired(&told).await;
    scene.check(&told).await;
    assert_eq!(told.stats().reloads, 2, "{:?}", told.stats());
    // From here on both know the writer.
    scene.fail_by(&writer, &is_refused, 2, 3).await;
    sleep(Duration::from_secs(60)).await;
    for users in [&told, &untold] {
        repaired(users).await;
        scene.check(users).await;
    }
}

/// What the source said of a loss is not taken back by a later repair, whose sender was not told of that loss.
#[tokio::test(start_paused = true)]
async fn what_the_source_repaired_is_not_taken_back_by_who_was_not_told_of_it() {
    for versions in DOMAINS {
        let scene = Scene { rows: 51, ..Scene::new(versions, 50) };
        let Parties { writer, is_refused, link, told, untold } = parties(&scene).await;
        link.heal();
        repaired(&told).await;
        scene.put(2, 2).await;
        scene.fail_by(&writer, &is_refused, 50, 1).await;
        sleep(Duration::from_secs(10)).await;
        repaired(&told).await;
        scene.check(&told).await;
        // It is told of a loss that the other one knows of.
        lose_one(&scene, &link, &told, 3).await;
        scene.check(&told).await;
        drop(untold);
        // Who is filled by one that was told knows what that one knows, and is of use.
        let filled = scene.users().await;
        let scans = scene.table.scans();
        lose_one(&scene, &link, &told, 4).await;
        for users in [&told, &filled] {
            scene.check(users).await;
        }
        let (stats, more) = (told.stats(), scene.table.scans() - scans);
        assert_eq!((filled.stats().copies, stats.digests, more), (1, 1, 0), "{stats:?}");
    }
}

/// Its link is lost for one write, and back for the next one.
async fn lose_one(scene: &Scene, link: &MemoryTransport, users: &Users, number: usize) {
    cut(link, users).await;
    scene.put(number, 2).await;
    link.heal();
    repaired(users).await;
    scene.put(number, 3).await;
}

/// What the link lost has a count only, and the publish that failed before it a name all the same: a replica that was
/// not told of that does not repair it.
#[tokio::test(start_paused = true)]
async fn a_publish_that_failed_amid_what_the_link_lost_is_told_by_its_number() {
    let scene = Scene::new(VersionDomain::Caller, 50);
    let Parties { writer, is_refused, link, told, untold: _untold } = parties(&scene).await;
    scene.fail_by(&writer, &is_refused, 1, 3).await;
    // The other one hears of the writer.
    sleep(Duration::from_secs(10)).await;
    scene.put_by(&writer, 2, 2).await.expect("accepted");
    link.heal();
    repaired(&told).await;
    scene.check(&told).await;
}

/// A digest for somebody who lost less may come of a replica that was not told of what the source repaired here.
#[tokio::test(start_paused = true)]
async fn nothing_is_taken_of_a_digest_whose_sender_was_not_told_of_what_was_repaired() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 50);
        let Parties { writer, is_refused, link, told, untold: _untold } = parties(&scene).await;
        link.heal();
        repaired(&told).await;
        scene.fail_by(&writer, &is_refused, 1, 3).await;
        sleep(Duration::from_secs(10)).await;
        repaired(&told).await;
        cut(&link, &told).await;
        scene.put(2, 2).await;
        link.heal();
        let asking = scene.broker.connect();
        let (began, mut asked) = (told.stats().reloads, 0);
        while told.freshness().is_suspect() {
            // Somebody asks who lost only what it cannot name.
            let question = Request::Compare { question: Origin::random(), lost: Vec::new() };
            let message = Message::request(Origin::random(), question.encode()).expect("a map");
            let topic = writer.topic().clone();
            asking.publish(topic, vec![message]).await.expect("accepted");
            asked += 1;
            sleep(Duration::from_millis(10)).await;
            let shown = told.get("key:1").map(|read| read.to_string());
            assert_eq!(shown, Some(value(1, 3)), "it was right before");
        }
        assert!(asked > 1 && told.stats().reloads == began + 1, "{asked}, {:?}", told.stats());
        scene.check(&told).await;
    }
}

/// What was ignored is not repaired by a later gap whose repair knows nothing of it.
#[tokio::test(start_paused = true)]
async fn what_was_ignored_is_repaired_by_the_source_or_by_who_was_told_of_it() {
    let scene = Scene::new(VersionDomain::Caller, 50);
    let (tapped, is_refused) = Tapped::refusing(scene.broker.connect());
    let (writer, link) = (channel(tapped, scene.versions), scene.broker.connect());
    let builder = Hydrated::builder(channel(link.clone(), scene.versions), Replica::new());
    let builder = builder.source(scene.table.clone()).with_warm_start(small());
    let ignores = |gap| match gap {
        Gap::Known(_) => GapAction::Ignore,
        _ => GapAction::Reload,
    };
    let builder = builder.with_hydration(move |hydrate| hydrate.on_gap_with(ignores));
    let told = within(builder.start()).await.expect("starts");
    within(told.ready()).await.expect("the table can be read");
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    scene.check(&told).await;
    // Nobody is there to copy from.
    cut(&link, &told).await;
    let _untold = scene.users().await;
    link.heal();
    repaired(&told).await;
    scene.fail_by(&writer, &is_refused, 1, 3).await;
    scene.put_by(&writer, 2, 3).await.expect("accepted");
    within(told.caught_up()).await.expect("the link is whole");
    let shown = told.get("key:1").map(|read| read.to_string());
    assert_eq!(shown, Some(value(1, 2)), "it ignored what it was told");
    cut(&link, &told).await;
    scene.put(3, 2).await;
    link.heal();
    repaired(&told).await;
    scene.check(&told).await;
}

/// What comes late and cannot be read says nothing of what came between.
#[tokio::test(start_paused = true)]
async fn who_was_not_told_of_a_loss_does_not_learn_of_it_by_a_late_message_that_it_cannot_read() {
    let (scene, broker) = (Scene::new(VersionDomain::Caller, 50), Broker::default());
    let (link, origin) = (broker.connect(), Origin::random());
    let builder = Channel::builder(link.clone(), "users").with_versions(scene.versions);
    let writer = builder.with_origin(origin).build().expect("legal");
    let (told_link, told) = on(&scene, &broker).await;
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    scene.check(&told).await;
    // Nobody is there to copy from.
    told_link.cut();
    let (untold_link, untold) = on(&scene, &broker).await;
    let (_, _other) = on(&scene, &broker).await;
    told_link.heal();
    repaired(&told).await;
    link.cut();
    for number in [1, 3] {
        scene.put_by(&writer, number, 3).await.expect_err("the link is lost");
    }
    link.heal();
    within(told.hydration().wait_until(Freshness::is_suspect)).await.expect("it is told");
    // It is repaired by the other one, which was not told either.
    untold_link.cut();
    untold_link.heal();
    within(untold.hydration().wait_until(Freshness::is_suspect)).await.expect("it is told");
    repaired(&untold).await;
    assert!(told.freshness().is_suspect(), "it waits for its publisher");
    let position = Position { origin, sequence: 2.try_into().expect("not zero") };
    let unread = Rejection::new(RejectionReason::NotAnEnvelope).with_position(Some(position));
    untold_link.receive("users", Err(unread));
    repaired(&told).await;
    scene.check(&told).await;
}
