//! The promises of fleets that lose messages together: one of many reads the source, and repairs the others.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use hydratecache::cache::Freshness;
use hydratecache::memory::MemoryTransport;
use hydratecache::{Channel, Origin, VersionDomain};
use support::fleet::{DOMAINS, Scene, Tapped, Users, channel, cut, linked, on, repaired};
use support::restart::{Broker, Link};
use support::within;
use tokio::time::sleep;

/// Fifty replicas, and their links.
async fn fleet(scene: &Scene) -> Vec<(MemoryTransport, Users)> {
    join_all((0..50).map(|_| linked(scene))).await
}

async fn all_are_right(scene: &Scene, fleet: &[(MemoryTransport, Users)]) {
    for (_, users) in fleet {
        repaired(users).await;
        scene.check(users).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_fifty_that_lose_their_broker_together_two_at_most_read_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 500);
        let fleet = fleet(&scene).await;
        let scans = scene.table.scans();
        join_all(fleet.iter().map(|(link, users)| cut(link, users))).await;
        for number in 0..20 {
            scene.put(number, 2).await;
            scene.remove(100 + number, 2).await;
        }
        for (link, _) in &fleet {
            link.heal();
        }
        all_are_right(&scene, &fleet).await;
        let scans = scene.table.scans() - scans;
        assert!((1..=2).contains(&scans), "{scans}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_fifty_two_at_most_read_the_source_for_rows_whose_publish_failed() {
    let scene = Scene::new(VersionDomain::Caller, 500);
    let fleet = fleet(&scene).await;
    let (link, is_refused) = Tapped::refusing(scene.broker.connect());
    // It listens to nobody, so nobody can ask it.
    let writer = channel(link, scene.versions);
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    for (_, users) in &fleet {
        scene.check(users).await;
    }
    let scans = scene.table.scans();
    join_all(fleet.iter().map(|(link, users)| cut(link, users))).await;
    scene.put(2, 2).await;
    is_refused.store(true, Ordering::SeqCst);
    for number in [3, 4, 5] {
        scene.put_by(&writer, number, 2).await.expect_err("refused");
    }
    for (link, _) in &fleet {
        link.heal();
    }
    is_refused.store(false, Ordering::SeqCst);
    // More fail when the first are repaired.
    all_are_right(&scene, &fleet).await;
    let repaired_once = scene.table.scans() - scans;
    sleep(Duration::from_secs(60)).await;
    all_are_right(&scene, &fleet).await;
    let repaired_twice = scene.table.scans() - scans;
    assert!(repaired_once <= 2 && repaired_twice <= 2, "{repaired_once}, {repaired_twice}");
    // Whoever repairs them later has to know of all that, and the writer says nothing any more.
    drop(writer);
    let scans = scene.table.scans();
    join_all(fleet.iter().map(|(link, users)| cut(link, users))).await;
    scene.put(6, 2).await;
    for (link, _) in &fleet {
        link.heal();
    }
    all_are_right(&scene, &fleet).await;
    let scans = scene.table.scans() - scans;
    assert!((1..=2).contains(&scans), "{scans}");
}

async fn lose(links: &[(Link, Users)]) {
    for (link, users) in links {
        link.cut();
        let told = users.hydration().wait_until(Freshness::is_suspect);
        within(told).await.expect("it goes on");
    }
}

/// Those whose links were lost earlier than others', and come back later, lost more of a writer than anyone knows
/// of who is whole by then. One of them reads the source, and the rest compare themselves with that one.
#[tokio::test(start_paused = true)]
async fn of_fifty_whose_links_are_lost_one_by_one_two_at_most_read_the_source() {
    let (scene, broker) = (Scene::new(VersionDomain::Caller, 500), Broker::default());
    let fleet = join_all((0..50).map(|_| on(&scene, &broker))).await;
    let link = broker.connect();
    let writer = channel(link.clone(), scene.versions);
    let _answering = writer.answer_requests().await.expect("subscribes");
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    for (_, users) in &fleet {
        scene.check(users).await;
    }
    let scans = scene.table.scans();
    let (earlier, later) = fleet.split_at(25);
    for (links, is_accepted) in [(earlier, true), (later, false)] {
        lose(links).await;
        if !is_accepted {
            link.cut();
        }
        for number in [3, 4, 5] {
            let version = if is_accepted { 2 } else { 3 };
            assert_eq!(scene.put_by(&writer, number, version).await.is_ok(), is_accepted);
        }
    }
    for (links, number) in [(later, 6), (earlier, 7)] {
        for (link, _) in links {
            link.heal();
        }
        if number == 6 {
            for (_, users) in links {
                repaired(users).await;
            }
            link.heal();
        }
        scene.put_by(&writer, number, 2).await.expect("accepted");
        for (_, users) in links {
            repaired(users).await;
            scene.check(users).await;
        }
    }
    let scans = scene.table.scans() - scans;
    assert_eq!(scans, 1, "the first who came back saw all that the others lost before");
    let digests: u64 = fleet.iter().map(|(_, users)| users.stats().digests).sum();
    assert_eq!(digests, 49);
}

/// Writers that listen, as many as there is no room for in one question, all of which were heard.
async fn writers(scene: &Scene, link: &Link, count: u64) -> Vec<Channel<String>> {
    let writer = |number: u64| {
        let builder = Channel::builder(link.clone(), "users").with_versions(scene.versions);
        // In this order their losses are named.
        builder.with_origin(Origin::from_u64(number).expect("not zero")).build().expect("legal")
    };
    let writers: Vec<Channel<String>> = (1..=count).map(writer).collect();
    for (writer, row) in writers.iter().zip(0..) {
        scene.put_by(writer, row, 2).await.expect("accepted");
    }
    writers
}

/// Those who are whole were told of what is named first, and not of the rest: who hears that asks for the rest.
#[tokio::test(start_paused = true)]
async fn however_many_publishers_lost_messages_one_of_many_reads_the_source_for_all() {
    let (scene, broker) = (Scene::new(VersionDomain::Caller, 200), Broker::default());
    let fleet = join_all((0..20).map(|_| on(&scene, &broker))).await;
    let link = broker.connect();
    let writers = writers(&scene, &link, 100).await;
    let _answering = join_all(writers.iter().map(Channel::answer_requests)).await;
    for (_, users) in &fleet {
        scene.check(users).await;
    }
    let scans = scene.table.scans();
    let (earlier, later) = fleet.split_at(10);
    lose(earlier).await;
    for (writer, row) in writers.iter().zip(0..).skip(90) {
        scene.put_by(writer, row, 3).await.expect("accepted");
    }
    lose(later).await;
    link.cut();
    for (writer, row) in writers.iter().zip(0..) {
        scene.put_by(writer, row, 4).await.expect_err("the link is lost");
    }
    for (link, _) in later {
        link.heal();
    }
    for (_, users) in later {
        repaired(users).await;
    }
    link.heal();
    for (links, version) in [(later, 5), (earlier, 6)] {
        for (link, _) in links {
            link.heal();
        }
        for (writer, row) in writers.iter().zip(100..) {
            scene.put_by(writer, row, version).await.expect("accepted");
        }
        for (_, users) in links {
            repaired(users).await;
            scene.check(users).await;
        }
    }
    let scans = scene.table.scans() - scans;
    assert_eq!(scans, 2, "one for the first who came back, and one for those who lost more");
}
