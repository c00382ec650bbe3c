//! The promises of repairs by another replica: what a gap took is had from one that lost nothing, and
//! nothing else is sent.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hydratecache::cache::{Freshness, GapAction, Loaded, Replica, WarmStart};
use hydratecache::{Hydrated, Key, VersionDomain};
use support::fleet::{
    DOMAINS, Fate, Scene, Tapped, Users, channel, cut, linked, repaired, slow, small, value,
};
use support::within;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn what_was_lost_comes_from_a_replica_that_lost_nothing() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 500);
        let _whole = scene.users().await;
        let (link, users) = linked(&scene).await;
        scene.put(3, 5).await;
        cut(&link, &users).await;
        scene.put(1, 2).await;
        scene.remove(2, 2).await;
        scene.put(3, 6).await;
        link.heal();
        repaired(&users).await;
        scene.check(&users).await;
        let stats = users.stats();
        assert_eq!((stats.digests, stats.reloads, scene.table.scans()), (1, 0, 1), "{stats:?}");
        // What it removed by that does not come back.
        scene.put(2, 7).await;
        scene.check(&users).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_that_differ_among_many_are_all_that_is_sent() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 20_000);
        let sent = Arc::new(AtomicUsize::new(0));
        let bytes = sent.clone();
        let tapped = Tapped::new(scene.broker.connect(), move |topic, batch| {
            if topic.as_str().contains("copy") {
                let payloads = batch.iter().map(|message| message.payload().len());
                bytes.fetch_add(payloads.sum::<usize>(), Ordering::SeqCst);
            }
            Fate::Sent
        });
        let whole = scene.begin(tapped, WarmStart::new()).await;
        within(whole.ready()).await.expect("the table can be read");
        let (link, users) = linked(&scene).await;
        let (copied, offered) = (users.stats().entries_copied, whole.stats().entries_offered);
        let sent_before = sent.load(Ordering::SeqCst);
        cut(&link, &users).await;
        for number in 0..10 {
            scene.put(7 * number, 2).await;
            scene.remove(1_000 + 7 * number, 2).await;
        }
        link.heal();
        repaired(&users).await;
        scene.check(&users).await;
        assert_eq!(users.stats().digests, 1);
        assert_eq!(users.stats().entries_copied - copied, 10, "{:?}", users.stats());
        assert_eq!(whole.stats().entries_offered - offered, 10);
        // The sums of 16 groups and of all 512 buckets, the hashes in 20 of them and ten values of 100 bytes.
        let sent = sent.load(Ordering::SeqCst) - sent_before;
        assert!(sent < (16 + 512) * 8 + 20 * 80 * 8 + 10 * 200, "{sent}");
        assert_eq!(scene.table.scans(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn where_too_much_differs_all_is_taken() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 4_000);
        let _whole = scene.users().await;
        let (link, users) = linked(&scene).await;
        cut(&link, &users).await;
        for number in 0..3_900 {
            scene.put(number, 2).await;
        }
        scene.remove(3_950, 2).await;
        link.heal();
        repaired(&users).await;
        scene.check(&users).await;
        let stats = users.stats();
        assert_eq!((stats.copies, stats.digests, scene.table.scans()), (2, 0, 1), "{stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_digest_is_under_way_is_kept() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 2_000);
        let whole = scene.begin(scene.broker.connect(), slow()).await;
        within(whole.ready()).await.expect("the table can be read");
        sleep(Duration::from_secs(11)).await;
        let (link, users) = linked(&scene).await;
        cut(&link, &users).await;
        for number in 0..500 {
            scene.put(3 * number, 2).await;
        }
        scene.remove(2, 2).await;
        link.heal();
        let (mut version, digests) = (3, users.stats().digests);
        while users.stats().digests == digests {
            version += 1;
            for number in [0, 2, 400, 999, 1_999] {
                if (number + usize::try_from(version).expect("small")).is_multiple_of(3) {
                    scene.remove(number, version).await;
                } else {
                    scene.put(number, version).await;
                }
            }
            sleep(Duration::from_millis(20)).await;
            assert!(version < 3_000, "{:?}", users.stats());
        }
        assert!(version > 20, "it took long enough: {version}");
        repaired(&users).await;
        scene.check(&users).await;
        assert_eq!(scene.table.scans(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_newer_here_stays() {
    let scene = Scene::new(VersionDomain::Caller, 500);
    let whole = scene.users().await;
    let (link, users) = linked(&scene).await;
    cut(&link, &users).await;
    scene.put(1, 2).await;
    // A reader loads a row whose message is still under way.
    scene.write("key:9", &value(9, 9), 9);
    let lease = users.hydration().lease(Key::new("key:9").expect("legal"));
    let loaded = Loaded::new(value(9, 9)).with_version(9);
    assert!(users.hydration().fill(lease, loaded).await.expect("it goes on"));
    link.heal();
    repaired(&users).await;
    assert_eq!(users.stats().digests, 1);
    scene.check(&users).await;
    assert_eq!(whole.get("key:9").map(|read| read.to_string()), Some(value(9, 1)));
}

#[tokio::test(start_paused = true)]
async fn rows_without_versions_are_compared_by_their_values() {
    let scene = Scene::new(VersionDomain::Clock, 2_000);
    let _whole = scene.users().await;
    let (link, users) = linked(&scene).await;
    let copied = users.stats().entries_copied;
    for number in 0..20 {
        scene.put(number, 2).await;
    }
    scene.check(&users).await;
    cut(&link, &users).await;
    scene.put(5, 3).await;
    scene.put(100, 3).await;
    scene.remove(6, 3).await;
    scene.remove(101, 3).await;
    link.heal();
    repaired(&users).await;
    scene.check(&users).await;
    let stats = users.stats();
    assert_eq!((stats.digests, stats.entries_copied - copied), (1, 2), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_row_without_a_version_is_not_taken_for_the_value_that_it_replaced() {
    let scene = Scene::new(VersionDomain::Clock, 500);
    let (whole_link, whole) = linked(&scene).await;
    let (link, users) = linked(&scene).await;
    for number in 0..4 {
        scene.put(number, 2).await;
    }
    scene.check(&whole).await;
    scene.check(&users).await;
    cut(&whole_link, &whole).await;
    cut(&link, &users).await;
    scene.put(1, 3).await;
    scene.put(2, 3).await;
    whole_link.heal();
    // Nobody else has them: they come from the table, over values with versions.
    repaired(&whole).await;
    scene.check(&whole).await;
    scene.put(2, 4).await;
    link.heal();
    repaired(&users).await;
    scene.check(&users).await;
    assert_eq!((users.stats().digests, scene.table.scans()), (1, 2), "{:?}", users.stats());
}

#[tokio::test(start_paused = true)]
async fn parts_that_are_lost_or_come_twice_cost_no_entry() {
    let scene = Scene::new(VersionDomain::Caller, 5_000);
    let sent = AtomicUsize::new(0);
    let link = Tapped::new(scene.broker.connect(), move |topic, _| {
        if !topic.as_str().contains("copy") {
            return Fate::Sent;
        }
        match sent.fetch_add(1, Ordering::SeqCst) % 5 {
            0 => Fate::Lost,
            2 => Fate::SentTwice,
            _ => Fate::Sent,
        }
    });
    let whole = scene.begin(link, small().with_chunk_bytes(1 << 10)).await;
    within(whole.ready()).await.expect("the table can be read");
    let (link, users) = linked(&scene).await;
    cut(&link, &users).await;
    for number in 0..300 {
        scene.put(11 * number, 2).await;
        scene.remove(11 * number + 1, 2).await;
    }
    link.heal();
    repaired(&users).await;
    scene.check(&users).await;
    let stats = users.stats();
    assert_eq!((stats.digests, scene.table.scans()), (1, 1), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn when_the_sender_dies_another_replica_or_the_source_helps() {
    for others in [1, 0] {
        let scene = Scene::new(VersionDomain::Clock, 2_000);
        let mut whole = Vec::new();
        for _ in 0..=others {
            let users = scene.begin(scene.broker.connect(), slow()).await;
            within(users.ready()).await.expect("it is filled");
            // It lingers for nobody.
            sleep(Duration::from_secs(5)).await;
            within(users.caught_up()).await.expect("the link is whole");
            whole.push(users);
        }
        let (link, users) = linked(&scene).await;
        sleep(Duration::from_secs(5)).await;
        cut(&link, &users).await;
        for number in 0..600 {
            scene.put(number, 2).await;
        }
        let (copied, scans) = (users.stats().entries_copied, scene.table.scans());
        let offered = |users: &Users| users.stats().entries_offered;
        let before: Vec<u64> = whole.iter().map(offered).collect();
        link.heal();
        while users.stats().entries_copied < copied + 100 {
            sleep(Duration::from_millis(10)).await;
        }
        let sender = whole.iter().zip(&before).position(|(users, before)| offered(users) > *before);
        drop(whole.remove(sender.expect("somebody sends")));
        repaired(&users).await;
        scene.check(&users).await;
        assert_eq!(users.stats().digests, others);
        assert_eq!(scene.table.scans() - scans, usize::from(others == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_gap_amid_a_digest_begins_it_again() {
    let scene = Scene::new(VersionDomain::Caller, 2_000);
    let whole = scene.begin(scene.broker.connect(), slow()).await;
    within(whole.ready()).await.expect("the table can be read");
    let (link, users) = linked(&scene).await;
    cut(&link, &users).await;
    for number in 0..600 {
        scene.put(number, 2).await;
    }
    let copied = users.stats().entries_copied;
    link.heal();
    while users.stats().entries_copied < copied + 100 {
        sleep(Duration::from_millis(10)).await;
    }
    link.cut();
    scene.put(1, 3).await;
    scene.remove(2, 3).await;
    link.heal();
    repaired(&users).await;
    scene.check(&users).await;
    assert_eq!((users.stats().digests, scene.table.scans()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dropped_all_after_a_gap_repairs_nobody() {
    let scene = Scene::new(VersionDomain::Caller, 50);
    let empty_link = scene.broker.connect();
    let builder = Hydrated::builder(channel(empty_link.clone(), scene.versions), Replica::new());
    let builder = builder.source(scene.table.clone()).with_warm_start(small());
    let builder = builder.with_hydration(|hydrate| hydrate.on_gap(GapAction::Clear));
    let empty = within(builder.start()).await.expect("starts");
    within(empty.ready()).await.expect("the table can be read");
    let (link, users) = linked(&scene).await;
    for (link, users) in [(&empty_link, &empty), (&link, &users)] {
        cut(link, users).await;
    }
    scene.put(1, 2).await;
    empty_link.heal();
    repaired(&empty).await;
    assert_eq!(empty.cache().len(), 0);
    link.heal();
    repaired(&users).await;
    scene.check(&users).await;
    assert_eq!(users.stats().reloads, 1, "{:?}", users.stats());
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_is_asked_for_reads_the_source() {
    let scene = Scene::new(VersionDomain::Caller, 50);
    let _whole = scene.users().await;
    let users = scene.users().await;
    // Nobody was told.
    scene.write("key:1", &value(1, 9), 9);
    within(users.hydration().reload()).await.expect("there is a source");
    within(users.hydration().wait_until(Freshness::is_suspect)).await.expect("it is told");
    repaired(&users).await;
    scene.check(&users).await;
    assert_eq!((users.stats().copies, users.stats().reloads), (1, 1));
}
