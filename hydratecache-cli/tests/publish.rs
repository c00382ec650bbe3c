//! `publish`, `remove`, `clear` and `touch` as their users run them, over real brokers.
#![cfg(feature = "nats")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures::StreamExt;
use hydratecache::channel::ChannelBuilder;
use hydratecache::codec::Json;
use hydratecache::{Change, Channel, Event, Updates, VersionDomain};
use hydratecache_nats::NatsTransport;
use serde::{Deserialize, Serialize};
use support::{Broker, Kind, broker, command, hydratecache, within};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u8,
    score: f64,
    tags: BTreeMap<String, Option<i64>>,
}

const ADA: &str = r#"{"name": "Ada", "age": 36, "score": 1.0, "tags": {"a": null, "b": -7}}"#;

fn ada() -> User {
    let tags = [("a".to_owned(), None), ("b".to_owned(), Some(-7))].into();
    User { name: "Ada".to_owned(), age: 36, score: 1.0, tags }
}

async fn updates<T: Send + Sync + 'static>(builder: ChannelBuilder<T>) -> Updates<T> {
    builder.build().expect("legal").subscribe().await.expect("subscribes")
}

async fn nats() -> (Broker, NatsTransport) {
    let nats = broker(Kind::Nats).await;
    let transport = NatsTransport::connect(nats.url()).await.expect("connects");
    (nats, transport)
}

/// The next change, with its key.
async fn next<T: std::fmt::Debug + Send + Sync + 'static>(
    updates: &mut Updates<T>,
) -> (String, Change<T>) {
    let limit = Duration::from_secs(60);
    loop {
        match within(limit, updates.next()).await.expect("the transport is open") {
            Event::Update(update) => {
                let key = update.key().map(|key| key.as_str().to_owned());
                return (key.unwrap_or_default(), update.change);
            }
            Event::Fenced(_) => (),
            other => panic!("{other:?}"),
        }
    }
}

/// Runs the command on another thread, so that the test goes on reading.
async fn run(broker: &Broker, arguments: &[&str], input: &str) -> Output {
    let mut command = command(arguments);
    command.env("HYDRATECACHE_TRANSPORT", broker.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let running = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it was asked for");
        let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("it ends");
        // It may end before it has read all.
        drop(writing.join().expect("no panic"));
        output
    });
    within(Duration::from_secs(60), running).await.expect("no panic")
}

fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

#[tokio::test]
async fn a_channel_with_the_default_codec_reads_what_is_published() {
    let (nats, transport) = nats().await;
    let mut users = updates(Channel::<User>::builder(transport, "users")).await;
    assert_exit(&run(&nats, &["publish", "users", "user:1", ADA, "--ttl", "30m"], "").await, 0);
    match next(&mut users).await {
        (key, Change::Put(_, value)) => assert_eq!((key.as_str(), value), ("user:1", ada())),
        other => panic!("{other:?}"),
    }
    assert_exit(&run(&nats, &["touch", "users", "user:1", "--ttl", "90s"], "").await, 0);
    assert!(matches!(next(&mut users).await, (key, Change::Touch(_)) if key == "user:1"));
    assert_exit(&run(&nats, &["remove", "users", "user:1"], "").await, 0);
    assert!(matches!(next(&mut users).await, (key, Change::Remove(_)) if key == "user:1"));
    let cleared = run(&nats, &["clear", "users", "--json"], "").await;
    assert_exit(&cleared, 0);
    assert!(matches!(next(&mut users).await, (_, Change::Clear)));
    let said: serde_json::Value = serde_json::from_slice(&cleared.stdout).expect("JSON");
    assert_eq!((&said["published"], &said["failed"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn a_channel_with_the_json_codec_and_versions_of_its_caller_reads_what_is_published() {
    let (nats, transport) = nats().await;
    let builder = ChannelBuilder::<User>::with_versions;
    let builder =
        builder(Channel::builder_with_codec(transport, "users", Json), VersionDomain::Caller);
    let mut users = updates(builder).await;
    let arguments = ["publish", "users", "user:1", ADA, "--codec", "json", "--version", "7"];
    assert_exit(&run(&nats, &arguments, "").await, 0);
    match next(&mut users).await {
        (_, Change::Put(_, value)) => assert_eq!(value, ada()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_good_line_is_published_in_order_and_every_bad_one_is_named() {
    const LINES: u64 = 20_000;
    let (nats, transport) = nats().await;
    let mut numbers = updates(Channel::<u64>::builder(transport, "numbers")).await;
    let line = |number: u64| match number {
        100 => "nonsense\n".to_owned(),
        15_000 => "{\"key\":\"\",\"value\":1}\n".to_owned(),
        _ => format!("{{\"key\":\"k{}\",\"value\":{number}}}\n", number % 10),
    };
    let input: String = (1..=LINES).map(line).collect();
    let arguments = ["publish", "numbers", "--from", "-", "--json"];
    let reading = async {
        for number in (1..=LINES).filter(|number| ![100, 15_000].contains(number)) {
            match next(&mut numbers).await {
                (key, Change::Put(_, value)) => {
                    assert_eq!((key, value), (format!("k{}", number % 10), number));
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let (output, ()) = tokio::join!(run(&nats, &arguments, &input), reading);
    assert_exit(&output, 1);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["published"], &said["refused"]), (&(LINES - 2).into(), &2.into()));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaints.contains("line 100: ") && complaints.contains("line 15000: "),
        "{complaints}"
    );
}

#[tokio::test]
async fn bad_lines_before_the_first_write_do_not_say_how_versions_are_meant() {
    let nats = broker(Kind::Nats).await;
    let input = "nonsense\n{\"key\":\"a\",\"value\":1,\"version\":7}\n{\"\u{9b}31m\":1}\n";
    let output = run(&nats, &["publish", "numbers", "--from", "-", "--json"], input).await;
    assert_exit(&output, 1);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["published"], &said["refused"]), (&1.into(), &2.into()));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!complaints.contains('\u{9b}'), "a terminal would obey: {complaints:?}");
}

#[tokio::test]
async fn lines_are_named_in_order_whoever_refuses_them() {
    let nats = broker(Kind::Nats).await;
    // Every other line is no JSON; the rest have keys that the channel refuses.
    let bad = |number: u64| {
        if number.is_multiple_of(2) { "nonsense" } else { "{\"key\":\"\",\"value\":1}" }
    };
    let input: Vec<_> = (1..=12).map(bad).collect();
    let output = run(&nats, &["publish", "numbers", "--from", "-"], &input.join("\n")).await;
    assert_exit(&output, 1);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let named: Vec<u64> = complaints
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.split_once(':')?.0.parse().ok())
        .collect();
    assert_eq!(named, (1..=12).collect::<Vec<_>>(), "{complaints}");
    assert!(complaints.contains("line 2: expected ident at column 2;"), "{complaints}");
}

#[tokio::test]
async fn a_broker_that_goes_away_ends_it_and_what_was_published_is_said() {
    let (nats, transport) = nats().await;
    let mut tail = updates(Channel::<u64>::builder(transport, "numbers")).await;
    let mut command = command(&["publish", "numbers", "--from", "-"]);
    command.env("HYDRATECACHE_TRANSPORT", nats.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(b"{\"key\":\"a\",\"value\":1}\n").expect("it reads");
    // What is not yet followed by more goes at once.
    assert_eq!(next(&mut tail).await.0, "a");
    nats.kill9().await.expect("killed");
    stdin.write_all(b"{\"key\":\"b\",\"value\":2}\n").expect("it reads");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = within(Duration::from_secs(60), output).await.expect("no panic").expect("it ends");
    drop(stdin);
    assert_exit(&output, 3);
    let said = String::from_utf8_lossy(&output.stdout);
    // The broker may be gone before it answers for the first, too.
    let is_counted = ["1 published, 1 failed", "0 published, 2 failed"];
    assert!(is_counted.iter().any(|counted| said.starts_with(counted)), "{said}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("line 2: ") && said.contains("nothing behind line 2"), "{said}");
}

#[test]
fn wrong_usage_is_said_before_anything_is_published() {
    for (arguments, said) in [
        (&["publish", "users"][..], "nothing to publish"),
        (&["publish", "users", "key"], "VALUE"),
        (&["publish", "users", "key", "Ada"], "text stands in quotes"),
        (&["publish", "users", "key", "1", "--from", "-"], "--from"),
        (&["publish", "users", "key", "1", "--ttl", "5"], "--ttl"),
        (&["publish", "users", "key", "99999999999999999999"], "64 bits"),
        (&["publish", "a b", "key", "1"], "invalid topic"),
        (&["publish", "users", "", "1"], "invalid key"),
        (&["remove", "users", ""], "invalid key"),
        (&["publish", "users", "--from", "/none"], "/none cannot be read"),
        (&["touch", "users", "key"], "needs a time to live"),
        (&["remove", "users"], "nothing to publish"),
    ] {
        let arguments = [arguments, &["--transport", "nats://127.0.0.1:1"]].concat();
        let output = hydratecache(&arguments, Stdio::null());
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {shown}");
        assert!(shown.contains(said), "{arguments:?}: {shown}");
    }
}
