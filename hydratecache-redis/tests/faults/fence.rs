//! Order: what was accepted before a fence comes before it.

use std::sync::Arc;

use futures::future::join_all;
use hydratecache::{ErrorKind, Transport};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::faults::support::{LONG, effort, in_time, millis, topic};
use hydratecache_testkit::faults::{Pressure, Subject, fences_prove_the_past};
use hydratecache_testkit::proxy::FaultProxy;

use crate::subject::Redis;
use crate::support::admin;

/// The server's refusal is a reply more than fred counts on. On a slow link what is acknowledged
/// elsewhere is still on its way when a reply that is one early arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_subscription_makes_no_fence_early_and_denies_no_other() {
    let subject = Redis::start().await;
    let broker = subject.broker();
    let rules = ["on", ">hunter2", "+@all", "&users", "&granted.*"];
    admin(broker, &[&["ACL", "SETUSER", "ada"], &rules[..]].concat()).await;
    let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
    let url = format!("redis://ada:hunter2@{}", proxy.addr());
    let reader = RedisTransport::connect(&url).await.expect("connects");
    let reader: Arc<dyn Transport> = Arc::new(reader);
    proxy.delay(millis(5), millis(0));
    let asking = ["granted.1", "denied.1", "granted.2", "denied.2"].map(|name| {
        let reader = reader.clone();
        tokio::spawn(async move {
            loop {
                let subscribing = in_time("an answer", LONG, reader.subscribe(topic(name)));
                match subscribing.await.map_err(|error| error.kind()) {
                    Ok(_) => assert!(name.starts_with("granted"), "{name} is deaf"),
                    Err(ErrorKind::Closed) => return,
                    Err(kind) => {
                        assert_eq!((kind, &name[..6]), (ErrorKind::Denied, "denied"));
                    }
                }
            }
        })
    });
    fences_prove_the_past(&subject, &reader, effort(100, 5000), Pressure::LIGHT).await;
    for asking in in_time("who asks to hear of the close", LONG, join_all(asking)).await {
        asking.expect("nobody is answered wrongly");
    }
}
