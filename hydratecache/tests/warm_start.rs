//! The promises of warm starts: a copy of a live replica instead of a scan, one scan for many, and
//! nothing older than what arrives meanwhile.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use hydratecache::cache::{Mode, Replica};
use hydratecache::codec::FnCodec;
use hydratecache::{
    Channel, ErrorKind, FenceScope, Hydrated, Kind, Limits, Message, Origin, Positions, Request,
    Signal, Subscription, Topic, Transport, Ttl, VersionDomain,
};
use support::fleet::{
    DOMAINS, Fate, Scene, Tapped, Users, channel, is_proven, name, slow, small, value,
};
use support::{Watched, within};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_beside_a_live_one_takes_its_copy_and_spares_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 3_000);
        let first = scene.users().await;
        scene.put(1, 7).await;
        scene.remove(2, 7).await;
        let second = scene.users().await;
        scene.check(&second).await;
        assert!(is_proven(&second));
        assert_eq!(scene.table.scans(), 1);
        let stats = second.stats();
        assert_eq!((stats.copies, stats.reloads, stats.entries_copied), (1, 0, 2_999), "{stats:?}");
        assert_eq!(first.stats().entries_offered, 2_999);
        let versions_of = |users: &Users, number| {
            users.cache().entry(&name(number)).and_then(|entry| entry.version())
        };
        for number in [0, 1, 2_999] {
            assert_eq!(versions_of(&first, number), versions_of(&second, number));
        }
        // It goes on as every other one.
        scene.put(1, 8).await;
        scene.put(2, 8).await;
        scene.check(&second).await;
        let third = scene.users().await;
        drop((first, second));
        scene.check(&third).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_a_copy_is_under_way_is_applied_in_order() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 2_000);
        let first = scene.begin(scene.broker.connect(), slow()).await;
        within(first.ready()).await.expect("the table can be read");
        // Later on, what is new is no more than that.
        sleep(Duration::from_secs(11)).await;
        let second = scene.begin(scene.broker.connect(), small()).await;
        let mut version = 1;
        while second.stats().copies == 0 {
            version += 1;
            for number in [0, 17, 1_000, 1_500, 1_999] {
                if (number + usize::try_from(version).expect("small")).is_multiple_of(3) {
                    scene.remove(number, version).await;
                } else {
                    scene.put(number, version).await;
                }
            }
            sleep(Duration::from_millis(20)).await;
            assert!(version < 3_000, "{:?}", second.stats());
        }
        assert!(version > 50, "it took long enough: {version}");
        within(second.ready()).await.expect("it has a copy");
        scene.check(&second).await;
        // Keys that were removed and came back right after its start had it look once more.
        sleep(Duration::from_secs(30)).await;
        scene.check(&second).await;
        assert!(is_proven(&second));
        assert_eq!((scene.table.scans(), second.stats().reloads), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn of_fifty_that_start_together_two_at_most_read_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 1_000);
        let starts = (0..50).map(|_| scene.begin(scene.broker.connect(), small()));
        let fleet = join_all(starts).await;
        join_all(fleet.iter().map(|users| within(users.ready()))).await;
        for users in &fleet {
            scene.check(users).await;
        }
        assert!(scene.table.scans() <= 2, "{}", scene.table.scans());
    }
}

#[tokio::test(start_paused = true)]
async fn of_fifty_that_start_together_amid_new_keys_two_at_most_read_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 300);
        let starts = (0..50).map(|_| scene.begin(scene.broker.connect(), small()));
        let fleet = join_all(starts).await;
        for number in 0..300 {
            // Some are removed and come back, each of which may be one that is gone.
            if number % 3 == 0 {
                scene.remove(number, 2).await;
            }
            scene.put(number, 3).await;
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_secs(30)).await;
        for users in &fleet {
            scene.check(users).await;
            assert!(is_proven(users));
        }
        assert!(scene.table.scans() <= 2, "{}", scene.table.scans());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_waits_says_little() {
    let scene = Scene::new(VersionDomain::Caller, 1_000);
    let said = Arc::new(AtomicU64::new(0));
    let count = said.clone();
    let tapped = Tapped::new(scene.broker.connect(), move |_, batch| {
        let requests = batch.iter().filter(|message| message.kind() == Kind::Request).count();
        count.fetch_add(requests as u64, Ordering::SeqCst);
        Fate::Sent
    });
    scene.table.hold_scans(Duration::from_secs(20));
    let links = (0..50).map(|_| tapped.again(scene.broker.connect()));
    let fleet = join_all(links.map(|link| scene.begin(link, small()))).await;
    join_all(fleet.iter().map(|users| within(users.ready()))).await;
    let said = said.load(Ordering::SeqCst);
    // About two a second while one of them reads, and a few for all.
    assert!((20..150).contains(&said), "{said}");
    assert!(scene.table.scans() <= 2);
}

/// What a copy alone would hide: its sender has the older value too, and nobody was told yet.
#[tokio::test(start_paused = true)]
async fn the_news_of_a_publish_that_failed_reaches_a_replica_that_was_filled_by_a_copy() {
    // Behind the copy, and at moments before, while and after it is taken.
    let moments = (0..60).map(|count| Some(count * Duration::from_millis(25)));
    for heard_after in [None].into_iter().chain(moments) {
        let scene = Scene::new(VersionDomain::Caller, 10);
        let (link, is_refused) = Tapped::refusing(scene.broker.connect());
        let writer = channel(link, scene.versions);
        let _answering = writer.answer_requests().await.expect("subscribes");
        let first = scene.users().await;
        writer.put("key:1", &value(1, 2)).version(2).await.expect("accepted");
        scene.write("key:1", &value(1, 2), 2);
        within(first.caught_up()).await.expect("the link is whole");
        // The row is written, and nobody is told.
        is_refused.store(true, Ordering::SeqCst);
        scene.write("key:1", &value(1, 3), 3);
        writer.put("key:1", &value(1, 3)).version(3).await.expect_err("refused");
        let second = scene.begin(scene.broker.connect(), small()).await;
        if let Some(delay) = heard_after {
            sleep(delay).await;
            is_refused.store(false, Ordering::SeqCst);
        }
        within(second.ready()).await.expect("it has a copy");
        assert_eq!(second.stats().copies, 1, "{heard_after:?}");
        is_refused.store(false, Ordering::SeqCst);
        sleep(Duration::from_secs(3)).await;
        for users in [&first, &second] {
            scene.check(users).await;
        }
        let gaps = [first.stats().gaps, second.stats().gaps];
        // A sender that heard the news first has repaired the key, and gives the newer value away.
        let is_told = gaps == [1, 1] || heard_after.is_some() && gaps == [1, 0];
        assert!(is_told, "{heard_after:?}: {gaps:?}");
        assert_eq!(scene.table.scans(), 1, "the key was loaded by itself");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_codec_wrote_is_not_taken() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    let other = FnCodec::new(
        |text: &String| Ok(text.clone().into()),
        |payload: &Bytes| Ok(String::from_utf8(payload.to_vec())?),
    );
    let builder = Channel::builder_with_codec(scene.broker.connect(), "users", other);
    let channel = builder.with_versions(scene.versions).build().expect("legal");
    let builder = Hydrated::builder(channel, Replica::new()).source(scene.table.clone());
    let first = builder.with_warm_start(small()).start().await.expect("starts");
    within(first.ready()).await.expect("the table can be read");
    let second = scene.users().await;
    scene.check(&second).await;
    assert_eq!((second.stats().copies, second.stats().reloads), (0, 1));
    // Its own kind is.
    let third = scene.users().await;
    assert_eq!((third.stats().copies, third.stats().reloads), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn when_the_sender_dies_another_replica_sends() {
    let scene = Scene::new(VersionDomain::Clock, 3_000);
    let mut whole = Vec::new();
    for _ in 0..2 {
        let users = scene.begin(scene.broker.connect(), slow()).await;
        within(users.ready()).await.expect("it is filled");
        // It proves that it is live, and lingers for nobody.
        sleep(Duration::from_secs(5)).await;
        within(users.caught_up()).await.expect("the link is whole");
        whole.push(users);
    }
    let offered = |users: &Users| users.stats().entries_offered;
    let before: Vec<u64> = whole.iter().map(offered).collect();
    let last = scene.begin(scene.broker.connect(), small()).await;
    while last.stats().entries_copied < 1_000 {
        sleep(Duration::from_millis(10)).await;
    }
    let sender = whole.iter().zip(&before).position(|(users, before)| offered(users) > *before);
    drop(whole.remove(sender.expect("somebody sends")));
    within(last.ready()).await.expect("it has a copy");
    scene.check(&last).await;
    assert_eq!((scene.table.scans(), last.stats().copies), (1, 1));
}

/// A removal that was not published is known only to those who were told of that: the copy of one that was told
/// then lacks the row.
#[tokio::test(start_paused = true)]
async fn what_a_copy_that_was_withdrawn_held_is_gone_if_the_next_one_lacks_it() {
    let scene = Scene::new(VersionDomain::Caller, 2_000);
    let (link, is_refused) = Tapped::refusing(scene.broker.connect());
    let writer = channel(link, scene.versions);
    let _answering = writer.answer_requests().await.expect("subscribes");
    let first = scene.begin(scene.broker.connect(), slow()).await;
    within(first.ready()).await.expect("the table can be read");
    scene.put_by(&writer, 1, 2).await.expect("accepted");
    scene.check(&first).await;
    // It never heard the writer.
    let second = scene.begin(scene.broker.connect(), slow()).await;
    while second.stats().entries_copied < 100 {
        sleep(Duration::from_millis(10)).await;
    }
    is_refused.store(true, Ordering::SeqCst);
    scene.table.delete("key:0");
    writer.remove("key:0").version(2).await.expect_err("refused");
    is_refused.store(false, Ordering::SeqCst);
    within(second.ready()).await.expect("it is filled");
    for users in [&first, &second] {
        scene.check(users).await;
    }
    assert_eq!((second.stats().copies, scene.table.scans()), (1, 1), "{:?}", second.stats());
}

#[tokio::test(start_paused = true)]
async fn when_nobody_else_is_there_the_source_is_read_soon() {
    let scene = Scene::new(VersionDomain::Caller, 2_000);
    let began = Instant::now();
    let only = scene.users().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((only.stats().copies, only.stats().reloads), (0, 1));
    // One that dies in the middle, with nobody else, leaves it to the source.
    let other = scene.begin(scene.broker.connect(), slow()).await;
    within(other.ready()).await.expect("it has a copy");
    drop(only);
    let last = scene.begin(scene.broker.connect(), small()).await;
    while last.stats().entries_copied < 500 {
        sleep(Duration::from_millis(10)).await;
    }
    drop(other);
    within(last.ready()).await.expect("the table can be read");
    scene.check(&last).await;
    assert_eq!((last.stats().copies, last.stats().reloads), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_lost_or_come_twice_cost_no_entry() {
    let scene = Scene::new(VersionDomain::Caller, 5_000);
    let sent = AtomicU64::new(0);
    let link = Tapped::new(scene.broker.connect(), move |topic, _| {
        if !topic.as_str().contains("copy") {
            return Fate::Sent;
        }
        match sent.fetch_add(1, Ordering::SeqCst) % 10 {
            3 => Fate::Lost,
            5 => Fate::SentTwice,
            _ => Fate::Sent,
        }
    });
    let first = scene.begin(link, small()).await;
    within(first.ready()).await.expect("the table can be read");
    let second = scene.users().await;
    scene.check(&second).await;
    let stats = second.stats();
    assert_eq!((stats.copies, stats.entries_copied), (1, 5_000), "{stats:?}");
    assert!(first.stats().entries_offered > 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_copied_entry_ends_when_the_one_that_it_was_copied_from_does() {
    let scene = Scene::new(VersionDomain::Clock, 100);
    let first = scene.users().await;
    let ttl = Ttl::starting_now(Duration::from_secs(30)).expect("legal");
    scene.writer.put("key:5", &value(5, 1)).ttl(ttl).await.expect("accepted");
    within(first.caught_up()).await.expect("the link is whole");
    sleep(Duration::from_secs(20)).await;
    let second = scene.users().await;
    let end = |users: &Users| users.cache().entry("key:5").and_then(|entry| entry.expires_at());
    let (own, copied) = (end(&first).expect("it has one"), end(&second).expect("it has one"));
    assert!(own.max(copied) - own.min(copied) < Duration::from_millis(200), "{own:?} {copied:?}");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_fits_into_no_chunk_is_read_from_the_source() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    let large = "x".repeat(3 << 20);
    scene.write("key:7", &large, 2);
    let mut link = Tapped::new(scene.broker.connect(), |_, _| Fate::Sent);
    link.limits = Limits::new(64 << 10, FenceScope::Process);
    let first = scene.begin(link.clone(), small()).await;
    within(first.ready()).await.expect("the table can be read");
    let loads = scene.table.loads();
    let second = scene.begin(link, small()).await;
    within(second.ready()).await.expect("it has a copy");
    scene.check(&second).await;
    assert_eq!((second.stats().copies, scene.table.loads() - loads), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn where_a_fence_covers_one_of_several_servers_the_source_is_read() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    for _ in 0..3 {
        let link = Watched::new(scene.broker.connect(), FenceScope::ClusterMember);
        let users = scene.begin(link, small()).await;
        within(users.ready()).await.expect("the table can be read");
        assert_eq!((users.stats().copies, users.stats().reloads), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_start_without_a_source_or_for_a_part_is_refused() {
    let scene = Scene::new(VersionDomain::Caller, 1);
    let builder =
        || Hydrated::builder(channel(scene.broker.connect(), scene.versions), Replica::new());
    let sourced = builder().source(scene.table.clone());
    let part = sourced.with_hydration(|hydrate| hydrate.with_mode(Mode::UpdateIfPresent));
    let short = builder().source(scene.table.clone());
    let short = short.with_hydration(|hydrate| hydrate.with_max_ttl(Duration::from_secs(1)));
    for builder in [builder(), part, short] {
        let refused = builder.with_warm_start(small()).start().await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
}

/// The key of a message that could not be used was dropped, and no reload has brought it back.
#[tokio::test(start_paused = true)]
async fn a_replica_whose_reload_failed_offers_no_copy_without_what_it_dropped() {
    const NEVER: Duration = Duration::from_secs(86_400);
    let scene = Scene::new(VersionDomain::Caller, 50);
    let first = scene.users().await;
    let stranger = Channel::<u64>::builder(scene.broker.connect(), "users");
    let stranger = stranger.with_versions(VersionDomain::Caller).build().expect("legal");
    scene.write(&name(7), &value(7, 2), 2);
    stranger.put(name(7), &7).version(2).await.expect("accepted");
    within(first.caught_up()).await.expect("the link is whole");
    assert!(first.get(&name(7)).is_none());
    scene.table.hold_scans(NEVER);
    first.hydration().reload().await.expect("there is a source");
    while first.stats().reload_failures == 0 {
        // It is tried again after a tenth of a second.
        sleep(Duration::from_millis(10)).await;
    }
    first.hydration().trust().await.expect("it goes on");
    within(first.hydration().wait_until(|it| !it.is_suspect())).await.expect("it goes on");
    scene.table.hold_scans(Duration::ZERO);
    let second = scene.users().await;
    scene.check(&second).await;
    assert_eq!((second.stats().copies, second.stats().reloads), (0, 1));
    // Now there is one, and what the first one lacks comes with its next reload.
    first.hydration().reload().await.expect("there is a source");
    while first.stats().reloads < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    scene.check(&first).await;
    drop(second);
    let third = scene.users().await;
    scene.check(&third).await;
    assert_eq!(third.stats().copies, 1);
}

/// Else those who lost what nobody was told of would wait for an answer that never comes.
#[tokio::test(start_paused = true)]
async fn who_is_busy_lets_those_wait_whom_it_can_answer_and_no_others() {
    let scene = Scene::new(VersionDomain::Clock, 50);
    let _whole = scene.users().await;
    let link = scene.broker.connect();
    let topic = Topic::new("users").expect("legal");
    let mut heard = link.subscribe(topic.clone()).await.expect("subscribes");
    let me = Origin::random();
    let ask = async |question: u64, lost: &[Positions]| {
        let question = Origin::from_u64(question).expect("not zero");
        let asked = Request::Compare { question, lost: lost.to_vec() };
        let asked = Message::request(me, asked.encode()).expect("legal");
        link.publish(topic.clone(), vec![asked]).await.expect("accepted");
    };
    // Two who do not take what they are offered.
    for question in 1..=2 {
        ask(question, &[]).await;
        assert!(says(&mut heard, |request| matches!(request, Request::Offered { .. })).await);
    }
    // It tells others to wait no more often than twice a second.
    sleep(Duration::from_secs(1)).await;
    let unheard = Positions::new(Origin::from_u64(9).expect("not zero"), 1, 3).expect("in order");
    ask(3, &[unheard]).await;
    assert!(!says(&mut heard, |request| matches!(request, Request::Wait(_))).await);
    ask(4, &[]).await;
    assert!(says(&mut heard, |request| matches!(request, Request::Wait(_))).await);
}

/// Whether somebody soon says such a thing.
async fn says(heard: &mut Subscription, is_such: impl Fn(&Request) -> bool + Sync) -> bool {
    let listening = async {
        loop {
            if let Some(Signal::Message(message)) = heard.next().await
                && Request::decode(message.payload()).is_some_and(|request| is_such(&request))
            {
                return;
            }
        }
    };
    timeout(Duration::from_millis(500), listening).await.is_ok()
}
