//! The examples of `docs/WIRE.md`, sent as they stand there.

mod support;

use futures::StreamExt;
use hydratecache::{Message, Signal, Subscription, Topic, Transport};
use hydratecache_postgres::PostgresTransport;
use support::{LIMIT, Session, postgres, within};

const PAGE: &str = include_str!("../../docs/WIRE.md");

fn examples() -> Vec<&'static str> {
    let examples: Vec<&str> =
        PAGE.lines().filter(|line| line.starts_with("{\"hydratecache\":1,\"xid\"")).collect();
    assert_eq!(examples.len(), 5, "the page has five examples");
    examples
}

async fn message(subscription: &mut Subscription) -> Message {
    loop {
        match within(LIMIT, subscription.next()).await.expect("a stream without end") {
            Signal::Message(message) => return message,
            Signal::Fenced(_) => {}
            other => panic!("a message, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_examples_of_the_specification_are_read_as_it_says() {
    let broker = postgres().await;
    let transport = PostgresTransport::connect(broker.url()).await.expect("connects");
    let topic = Topic::new("users").expect("legal");
    let mut subscription = transport.subscribe(topic).await.expect("subscribes");
    let session = Session::open(broker.url()).await;
    let mut read = Vec::new();
    for example in examples() {
        let notify = "SELECT pg_notify('users', $1)";
        session.client.execute(notify, &[&example]).await.expect("notifies");
        read.push(message(&mut subscription).await);
    }
    let said: Vec<String> = read
        .iter()
        .map(|message| {
            let payload = String::from_utf8_lossy(message.payload());
            let (kind, key) = (message.kind(), message.key().map(hydratecache::Key::as_str));
            let ttl = message.ttl().map(hydratecache::Ttl::to_micros);
            let version = message.version().map(hydratecache::Version::number);
            format!(
                "{kind:?} {key:?} {payload} {ttl:?} {:?} {:?} {}",
                version.map(|version| version % 100),
                message.transaction(),
                message.is_invalidation()
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            r#"Put Some("1") {"id":1,"name":"Ada"} None Some(88) Some(745) false"#,
            r#"Put Some("1") "x" Some((1700000000000000, 60000000)) Some(89) Some(746) false"#,
            r#"Remove Some("a\\:b:2")  None Some(90) Some(747) false"#,
            r#"Remove Some("1")  None Some(91) Some(748) true"#,
            "Clear None  None Some(92) Some(749) false",
        ]
    );
}

/// What another program sends in pieces arrives whole, or is rejected and the stream goes on.
#[tokio::test]
async fn pieces_arrive_as_one_message_or_not_at_all() {
    let broker = postgres().await;
    let transport = PostgresTransport::connect(broker.url()).await.expect("connects");
    let topic = Topic::new("users").expect("legal");
    let mut subscription = transport.subscribe(topic).await.expect("subscribes");
    let session = Session::open(broker.url()).await;
    let value = "x".repeat(20_000);
    let text =
        format!(r#"{{"hydratecache":1,"kind":"put","version":1,"key":"k","value":"{value}"}}"#);
    let pieces: Vec<String> = (0..3)
        .map(|index| {
            let end = text.len().min((index + 1) * 7_000);
            format!("~a1.{index}.3.{}", &text[index * 7_000..end])
        })
        .collect();
    let notify = "SELECT count(pg_notify('users', text)) FROM unnest($1::text[]) AS text";
    session.client.execute(notify, &[&pieces]).await.expect("notifies");
    let whole = message(&mut subscription).await;
    assert_eq!(whole.payload().len(), value.len() + 2);
    let torn = [pieces[0].clone(), examples()[0].to_owned(), pieces[1].clone()].to_vec();
    session.client.execute(notify, &[&torn]).await.expect("notifies");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match within(LIMIT, subscription.next()).await.expect("a stream without end") {
            Signal::Message(message) => seen.push(format!("{:?}", message.kind())),
            Signal::Rejected(rejection) => seen.push(rejection.reason().to_string()),
            Signal::Fenced(_) => {}
            other => panic!("a message or a rejection, not {other:?}"),
        }
    }
    assert_eq!(seen, ["its bytes end early", "Put"]);
}
