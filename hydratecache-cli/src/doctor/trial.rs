//! Does with the broker what the library does: connects, subscribes, publishes, and waits for what
//! it published.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hydratecache::{ErrorKind, Message, Origin, Signal, Subscription, Topic, Transport};
use tokio::time::{Instant, timeout};
#[cfg(feature = "postgres")]
use tokio_postgres::config::SslMode;

use super::ANSWER_LIMIT;
use super::finding::Finding;
#[cfg(feature = "postgres")]
use crate::client::postgres;
use crate::transport::{Broker, BrokerUrl, Connecting};

/// Tries everything, up to what fails. Returns whether it could connect.
pub(super) async fn run(
    connecting: Connecting,
    topic: &Topic,
    findings: &mut Vec<Finding>,
) -> bool {
    let began = Instant::now();
    let transport = match connecting.await {
        Ok(transport) => transport,
        Err(error) => {
            let advice = connection_advice(error.kind());
            findings.push(Finding::failure("connection", error.to_string(), advice));
            return false;
        }
    };
    findings.push(Finding::ok("connection", format!("it took {}", millis(began))));
    let subscription = subscribe(&transport, topic, findings).await;
    let published = publish(&transport, topic, findings).await;
    if let (Some(mut subscription), Some((body, began))) = (subscription, published) {
        findings.push(round_trip(&mut subscription, &body, began).await);
        findings.push(fence(&transport).await);
    }
    // Whatever is left goes with the process.
    let _ = timeout(Duration::from_secs(1), transport.close()).await;
    true
}

async fn subscribe(
    transport: &Arc<dyn Transport>,
    topic: &Topic,
    findings: &mut Vec<Finding>,
) -> Option<Subscription> {
    match transport.subscribe(topic.clone()).await {
        Ok(subscription) => {
            findings.push(Finding::ok("subscribe", format!("topic {topic} is proven")));
            Some(subscription)
        }
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::Denied => "grant the user to subscribe to the topic",
                _ => "see what the error says",
            };
            findings.push(Finding::failure("subscribe", error.to_string(), advice));
            None
        }
    }
}

/// Publishes what writes nothing, and returns it with the time.
async fn publish(
    transport: &Arc<dyn Transport>,
    topic: &Topic,
    findings: &mut Vec<Finding>,
) -> Option<(Bytes, Instant)> {
    let origin = Origin::random();
    let body = probe(origin);
    let message = Message::request(origin, body.clone()).expect("the body is a map");
    let began = Instant::now();
    match transport.publish(topic.clone(), vec![message]).await {
        Ok(()) => {
            let says = format!("the broker took it in {}", millis(began));
            findings.push(Finding::ok("publish", says));
            Some((body, began))
        }
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::Denied => "grant the user to publish to the topic",
                _ => "see what the error says",
            };
            findings.push(Finding::failure("publish", error.to_string(), advice));
            None
        }
    }
}

/// A request of no known type, which nobody answers: `{"doctor": h'...'}`.
fn probe(origin: Origin) -> Bytes {
    let mut body = vec![0xa1, 0x66];
    body.extend_from_slice(b"doctor");
    body.push(0x48);
    body.extend_from_slice(&origin.get().to_be_bytes());
    body.into()
}

async fn round_trip(subscription: &mut Subscription, body: &Bytes, began: Instant) -> Finding {
    let arrived = async {
        while let Some(signal) = subscription.next().await {
            if matches!(&signal, Signal::Message(message) if message.payload() == body) {
                return true;
            }
        }
        false
    };
    match timeout(ANSWER_LIMIT, arrived).await {
        Ok(true) => Finding::ok("round trip", format!("it came back after {}", millis(began))),
        _ => Finding::failure(
            "round trip",
            format!("what was published to the topic did not arrive within {ANSWER_LIMIT:?}"),
            "see whether publishers and subscribers reach the same server, database or cluster",
        ),
    }
}

async fn fence(transport: &Arc<dyn Transport>) -> Finding {
    let began = Instant::now();
    match transport.fence().await {
        Ok(_) => Finding::ok("freshness", format!("a fence took {}", millis(began))),
        Err(error) => Finding::failure(
            "freshness",
            error.to_string(),
            "without it no read can be proven fresh",
        ),
    }
}

fn connection_advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            "see whether it runs, whether host and port are right, and whether a firewall or a \
             missing TLS is in the way"
        }
        ErrorKind::Denied => "see whether user, password and permissions are right",
        _ => "see what the error says",
    }
}

/// Whether values and passwords cross a network in plain text. None: it is not known from the URL.
pub(super) fn encryption(url: &BrokerUrl, broker: Broker) -> Option<Finding> {
    let what = "encryption";
    let of_url = || is_local(host(url.expose()));
    let (is_local, is_encrypted) = match broker {
        Broker::Redis => (of_url(), url.expose().starts_with("rediss:")),
        // A server may ask for TLS by itself.
        Broker::Nats if !url.expose().starts_with("tls:") => return None,
        Broker::Nats => (of_url(), true),
        #[cfg(feature = "postgres")]
        Broker::Postgres => {
            let settings = postgres::settings(url).ok()?;
            let is_local = !settings.get_hosts().iter().any(postgres::is_elsewhere);
            (is_local, settings.get_ssl_mode() != SslMode::Disable)
        }
        #[cfg(not(feature = "postgres"))]
        Broker::Postgres => return None,
        // Its settings are not in the URL.
        Broker::Kafka => return None,
    };
    Some(match (is_local, is_encrypted) {
        (true, _) => Finding::ok(what, "the broker is on this machine"),
        (false, true) => Finding::ok(what, "TLS is asked for"),
        (false, false) => Finding::warning(
            what,
            "passwords and values cross the network in plain text",
            "switch TLS on at the server and use rediss://, or sslmode=require",
        ),
    })
}

/// The first host of a URL.
pub(super) fn host(url: &str) -> &str {
    let authority = authority(url);
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// The first `host:port` of a URL, without credentials.
pub(super) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let servers = authority.rsplit_once('@').map_or(authority, |(_, servers)| servers);
    servers.split(',').next().unwrap_or_default()
}

fn is_local(host: &str) -> bool {
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    host == "localhost" || host.is_empty() || is_loopback
}

fn millis(began: Instant) -> String {
    format!("{:.1} ms", began.elapsed().as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn the_probe_is_a_request_that_no_one_knows() {
        let origin = Origin::random();
        Message::request(origin, probe(origin)).expect("a map");
        assert_eq!(hydratecache::Request::decode(&probe(origin)), None);
    }

    #[test]
    fn plain_text_over_a_network_is_a_warning() {
        for (url, broker, level) in [
            ("redis://u:p@cache.test:6379/0", Broker::Redis, Some(Level::Warning)),
            ("rediss://u:p@cache.test", Broker::Redis, Some(Level::Ok)),
            ("redis://127.0.0.1", Broker::Redis, Some(Level::Ok)),
            ("redis://[::1]:6379", Broker::Redis, Some(Level::Ok)),
            #[cfg(feature = "postgres")]
            ("postgres://u:p@db.test/x?sslmode=disable", Broker::Postgres, Some(Level::Warning)),
            #[cfg(feature = "postgres")]
            ("postgres://u:p@db.test/x?sslmode=%64isable", Broker::Postgres, Some(Level::Warning)),
            #[cfg(feature = "postgres")]
            ("postgres://u:sslmode=disable@db.test/x", Broker::Postgres, Some(Level::Ok)),
            #[cfg(feature = "postgres")]
            ("postgres://u:p@db.test/x?user=sslmode=disable", Broker::Postgres, Some(Level::Ok)),
            #[cfg(feature = "postgres")]
            ("postgres://u:p@db.test/x", Broker::Postgres, Some(Level::Ok)),
            #[cfg(feature = "postgres")]
            ("postgres://u:p@%2Fvar%2Frun/x", Broker::Postgres, Some(Level::Ok)),
            #[cfg(feature = "postgres")]
            (
                "postgres://u:p@localhost,db.test/x?sslmode=disable",
                Broker::Postgres,
                Some(Level::Warning),
            ),
            ("nats://n.test", Broker::Nats, None),
            ("tls://n.test", Broker::Nats, Some(Level::Ok)),
            ("kafka://k.test", Broker::Kafka, None),
        ] {
            let parsed = url.parse().expect("anything is taken");
            assert_eq!(encryption(&parsed, broker).map(|finding| finding.level), level, "{url}");
        }
        assert_eq!(authority("nats://u:p@a:1,b:2"), "a:1");
    }
}
