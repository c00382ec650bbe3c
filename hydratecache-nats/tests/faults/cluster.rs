//! Three servers in a cluster: how far a fence reaches, and a server that shuts down gently.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use futures::future::join_all;
use hydratecache::{FenceScope, Signal, Transport};
use hydratecache_nats::NatsTransport;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, fence, in_time, millis, number, secs, topic, until,
};

use crate::support::{connections_at, connections_of, server_id, start, with_users};

/// Three servers that know each other.
async fn cluster() -> Vec<Broker> {
    // Free when they were looked for: a server that finds its port taken ends the test.
    let sockets: Vec<_> =
        (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port")).collect();
    let ports: Vec<u16> =
        sockets.iter().map(|socket| socket.local_addr().expect("bound").port()).collect();
    drop(sockets);
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let routes = routes.join(", ");
    join_all(ports.iter().map(|port| {
        let cluster =
            format!("cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}");
        let settings = with_users("").with_setting(cluster);
        // The shortest that it takes; clients have five seconds to go by themselves.
        start(
            settings
                .with_setting("lame_duck_duration: 30s")
                .with_setting("lame_duck_grace_period: 5s"),
        )
    }))
    .await
}

async fn connect(url: &str) -> Arc<dyn Transport> {
    Arc::new(NatsTransport::connect(url).await.expect("connects"))
}

/// A fence proves what its own server had accepted; what another server accepted arrives, behind
/// it or before it, and once a fence has passed everywhere nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_in_a_cluster_covers_its_own_server_and_nothing_is_lost_between_servers() {
    let brokers = cluster().await;
    let transports = join_all(brokers.iter().map(|broker| connect(broker.url()))).await;
    let [one, two, three] = &transports[..] else { panic!("three") };
    assert_eq!(one.limits().fence_scope, FenceScope::Server);
    let topic = topic("users");
    let mut listener = Listener::on(one, &topic).await;
    // Interest spreads between servers when it can.
    let mut far = [Writer::new(two, &topic), Writer::new(three, &topic)];
    let heard = async || {
        for writer in &mut far {
            writer.send().await.expect("published");
        }
        let signals = listener.before(fence(one).await).await;
        let heard = |writer: &Writer| {
            signals.iter().any(
                |signal| matches!(signal, Signal::Message(it) if it.origin() == Some(writer.origin())),
            )
        };
        far.iter().all(heard)
    };
    until("messages from every server", LONG, heard).await;
    // Its own server's are proven by every fence.
    let mut near = Writer::new(&connect(brokers[0].url()).await, &topic);
    for _ in 0..300 {
        let sent = near.send().await.expect("published");
        let signals = listener.before(fence(one).await).await;
        let arrived = signals.iter().any(|signal| match signal {
            Signal::Message(it) => it.origin() == Some(near.origin()) && number(it) == sent,
            other => panic!("messages, not {other:?}"),
        });
        assert!(arrived, "{sent} was accepted by the same server before the fence");
    }
    // The others' arrive in order and without a gap, fenced or not.
    let mut writer = Writer::new(two, &topic);
    let last = writer.send_batch(1000, 100).await.expect("published");
    let mut next = 1;
    while next <= last {
        match listener.next("what another server accepted", LONG).await {
            Signal::Message(it) if it.origin() == Some(writer.origin()) => {
                assert_eq!(number(&it), next);
                next += 1;
            }
            Signal::Message(_) => {}
            other => panic!("messages, not {other:?}"),
        }
    }
}

/// The server asks its clients to go: whoever is on it goes over without a gap, and no publish fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_shuts_down_gently_is_left_without_a_gap() {
    let brokers = cluster().await;
    // It learns of the others from the server it meets first.
    let reader = connect(brokers[0].url()).await;
    let writing = connect(brokers[0].url()).await;
    let topic = topic("users");
    let mut listener = Listener::on(&reader, &topic).await;
    let mut writer = Writer::new(&writing, &topic);
    let sent = writer.send().await.expect("published");
    listener.numbers([sent]).await;
    assert_eq!(connections_of(&brokers[0], "anyone").await, 4);
    let old = server_id(&brokers[0]).await;
    let pid = brokers[0].pid().await.expect("it runs").to_string();
    let asked = Command::new("kill").args(["-s", "USR2", &pid]).status().expect("runs");
    assert!(asked.success(), "SIGUSR2 begins the lame duck mode");
    let moved = async || {
        let last = writer.send().await.expect("no publish fails");
        listener.numbers(last..=last).await;
        tokio::time::sleep(millis(1)).await;
        let [two, three] = [1, 2].map(|index| connections_of(&brokers[index], "anyone"));
        two.await + three.await == 4
    };
    Box::pin(until("both transports on other servers", secs(10), moved)).await;
    // The old connections are given up soon after.
    let mut alone = async || {
        let last = writer.send().await.expect("no publish fails");
        listener.numbers(last..=last).await;
        connections_at(&brokers[1], &old).await.is_none_or(|left| left.is_empty())
    };
    let leaving = async { while !alone().await {} };
    Box::pin(in_time("the old server to be left", secs(10), leaving)).await;
    brokers[0].kill9().await.expect("killed");
    for _ in 0..100 {
        let last = writer.send().await.expect("nobody is there any more");
        listener.numbers(last..=last).await;
    }
}
