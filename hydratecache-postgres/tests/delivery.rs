//! What users of one database see: values of any size, topics of any length, transactions, triggers,
//! TLS, poolers, and connections that the server ends.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use hydratecache::cache::Replica;
use hydratecache::codec::Json;
use hydratecache::{Channel, ErrorKind, Event, Gap, Signal, Topic, Transport, VersionDomain};
use hydratecache_postgres::{Attachment, Migration, PostgresConfig, PostgresTransport, PublishIn};
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::faults::support::Rounds;
use hydratecache_testkit::proxy::TlsFront;
use serde::{Deserialize, Serialize};
use support::{LIMIT, Session, postgres, within};
use tokio::time::timeout;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    id: i64,
    name: String,
}

async fn connect(broker: &Broker) -> PostgresTransport {
    PostgresTransport::connect(broker.url()).await.expect("connects")
}

fn rows(transport: PostgresTransport) -> Channel<User> {
    let channel = Channel::builder_with_codec(transport, "users", Json);
    channel.with_versions(VersionDomain::Caller).build().expect("legal")
}

#[tokio::test]
async fn values_and_topics_of_any_legal_length_are_delivered_and_larger_ones_refused() {
    let broker = postgres().await;
    let (writer, reader) = (connect(&broker).await, connect(&broker).await);
    for topic in ["users", "__a:b/c-d.e", &"t".repeat(63), &"t".repeat(64), &"t".repeat(200)] {
        let from = Channel::<String>::new(writer.clone(), topic).expect("legal");
        let to = Channel::<String>::new(reader.clone(), topic).expect("legal");
        let replica = Replica::new();
        let hydration = to.hydrate(replica.clone()).await.expect("subscribes");
        let most = from.transport().limits().max_payload_bytes;
        for bytes in [0, 1, 5_900, 6_000, 30_000, most - 5] {
            let value = "é".repeat(bytes / 2);
            from.publish(format!("{bytes}"), &value).await.expect("published");
        }
        hydration.caught_up().await.expect("caught up");
        assert_eq!(replica.len(), 6, "{topic}");
        assert_eq!(replica.get("30000").map(|value| value.len()), Some(30_000));
        let refused = from.publish("large", &"x".repeat(most)).await;
        assert_eq!(refused.expect_err("too large").kind(), ErrorKind::PayloadTooLarge);
        assert_eq!(hydration.stats().rejected, 0);
    }
}

#[tokio::test]
async fn a_write_by_any_program_reaches_a_replica_as_the_users_struct() {
    let broker = postgres().await;
    let session = Session::open(broker.url()).await;
    Migration::install(&session.client).await.expect("installs");
    session.run("CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, secret int)").await;
    let topic = Topic::new("users").expect("legal");
    Attachment::new("users", topic).attach(&session.client).await.expect("attaches");
    let replica = Replica::new();
    let users = rows(connect(&broker).await);
    let hydration = users.hydrate(replica.clone()).await.expect("subscribes");
    session.run("INSERT INTO users SELECT n, 'name ' || n FROM generate_series(1, 2000) n").await;
    session.run("DELETE FROM users WHERE id % 2 = 0").await;
    session.run("UPDATE users SET name = 'Ada' WHERE id = 1").await;
    hydration.caught_up().await.expect("caught up");
    assert_eq!(replica.len(), 1000);
    let ada = User { id: 1, name: "Ada".to_owned() };
    assert_eq!(replica.get("1").as_deref(), Some(&ada));
    session.run("TRUNCATE users").await;
    hydration.caught_up().await.expect("caught up");
    assert_eq!(replica.len(), 0);
    assert_eq!(hydration.stats().rejected, 0);
}

#[tokio::test]
async fn what_is_published_in_a_transaction_is_delivered_on_commit_and_never_on_rollback() {
    let broker = postgres().await;
    let transport = connect(&broker).await;
    let users = Channel::<String>::new(transport.clone(), "users").expect("legal");
    let topic = users.topic().clone();
    let mut signals = transport.subscribe(topic).await.expect("subscribes");
    let mut db = Session::open(broker.url()).await;
    let large = "x".repeat(20_000);

    let rolled_back = db.client.transaction().await.expect("begins");
    users.put("a", &"lost".to_owned()).publish_in(&rolled_back).await.expect("published");
    rolled_back.rollback().await.expect("rolls back");

    let committed = db.client.transaction().await.expect("begins");
    users.put("b", &"kept".to_owned()).publish_in(&committed).await.expect("published");
    users.put("c", &large).publish_in(&committed).await.expect("published");
    users.remove("d").publish_in(&committed).await.expect("published");
    let number = "SELECT pg_current_xact_id()::text::bigint";
    let number: i64 = committed.query_one(number, &[]).await.expect("asks").get(0);
    let too_large = users.put("e", &"x".repeat(70_000)).publish_in(&committed).await;
    assert_eq!(too_large.expect_err("too large").kind(), ErrorKind::PayloadTooLarge);
    let before = transport.fence().await.expect("an echo");
    committed.commit().await.expect("commits");
    let behind = transport.fence().await.expect("an echo");

    let (mut keys, mut is_committed) = (Vec::new(), false);
    loop {
        match within(LIMIT, signals.next()).await.expect("a stream without end") {
            Signal::Message(message) => {
                assert!(is_committed, "nothing before the commit");
                assert_eq!(message.transaction(), u64::try_from(number).ok());
                keys.push(message.key().expect("a key").to_string());
            }
            Signal::Fenced(fence) if fence >= behind => break,
            Signal::Fenced(fence) => is_committed |= fence >= before,
            other => panic!("a message or a fence, not {other:?}"),
        }
    }
    assert_eq!(keys, ["b", "c", "d"]);
}

#[tokio::test]
async fn equal_messages_without_a_sequence_are_all_delivered() {
    let broker = postgres().await;
    let transport = connect(&broker).await;
    let topic = Topic::new("users").expect("legal");
    let mut signals = transport.subscribe(topic.clone()).await.expect("subscribes");
    let remove = hydratecache::Message::remove(hydratecache::Key::new("k").expect("legal"));
    transport.publish(topic, vec![remove; 5]).await.expect("published");
    for _ in 0..5 {
        let signal = within(LIMIT, signals.next()).await;
        assert!(matches!(signal, Some(Signal::Message(_))), "{signal:?}");
    }
}

#[tokio::test]
async fn connections_that_the_server_ends_are_made_anew_and_said_to_be_lost() {
    let broker = postgres().await;
    let transport = connect(&broker).await;
    let users = Channel::<u64>::new(transport, "users").expect("legal");
    let mut updates = users.subscribe().await.expect("subscribes");
    let admin = Session::open(broker.url()).await;
    let mut back = Rounds::of("to be back");
    for round in 0..5 {
        admin
            .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'hydratecache%'")
            .await;
        let outage = async {
            let mut seen = Vec::new();
            while seen.len() < 3 {
                match within(LIMIT, updates.next()).await.expect("a stream without end") {
                    Event::Disrupted(_) => seen.push("disrupted"),
                    Event::Live => seen.push("live"),
                    Event::Gap(Gap::Unknown) => seen.push("gap"),
                    Event::Fenced(_) => {}
                    other => panic!("not {other:?}"),
                }
            }
            seen
        };
        assert_eq!(back.one(outage).await, ["disrupted", "live", "gap"]);
        users.publish("k", &round).await.expect("published");
        let event = within(LIMIT, updates.next()).await;
        assert!(matches!(event, Some(Event::Update(_) | Event::Fenced(_))), "{event:?}");
        while !matches!(within(LIMIT, updates.next()).await, Some(Event::Fenced(_))) {}
    }
    back.fastest_took_less_than(Duration::from_secs(2));
}

#[tokio::test]
async fn a_server_is_reached_over_tls_and_only_if_its_certificate_is_trusted() {
    let broker = postgres().await;
    let front = TlsFront::start(broker.addr(), "localhost").await.expect("a TLS front");
    let credentials = "hydratecache:hydratecache";
    let url = format!(
        "postgres://{credentials}@localhost:{}/hydratecache?sslmode=require&sslnegotiation=direct",
        front.addr().port()
    );
    let config = PostgresConfig::from_url(&url).expect("legal");
    let trusting = config.clone().with_root_certificates(front.ca_pem().as_bytes()).expect("PEM");
    let transport = trusting.connect().await.expect("connects over TLS");
    transport.fence().await.expect("an echo over TLS");
    let other = TlsFront::start(broker.addr(), "localhost").await.expect("another authority");
    let wary = config.with_root_certificates(other.ca_pem().as_bytes()).expect("PEM");
    let error = wary.connect().await.expect_err("an unknown authority");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let plain = format!("postgres://{credentials}@{}/hydratecache?sslmode=require", broker.addr());
    let error = PostgresConfig::from_url(&plain).expect("legal").connect().await;
    let error = error.expect_err("the server speaks no TLS");
    assert!(!error.to_string().contains("hydratecache:hydratecache"), "{error}");
}

#[tokio::test]
async fn an_absent_server_a_wrong_password_and_a_missing_database_are_errors_within_five_seconds() {
    let absent = PostgresTransport::connect("postgres://u:hunter2@127.0.0.1:1/db");
    let error = within(Duration::from_secs(5), absent).await.expect_err("nobody listens there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("hunter2"), "{shown}");

    let broker = postgres().await;
    for (url, kind) in [
        (format!("postgres://nobody:hunter2@{}/hydratecache", broker.addr()), ErrorKind::Denied),
        (
            format!("postgres://hydratecache:hydratecache@{}/missing", broker.addr()),
            ErrorKind::InvalidInput,
        ),
    ] {
        let error = PostgresTransport::connect(&url).await.expect_err("cannot be used");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

/// A pgbouncer of the test's own.
struct Pooler {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    fn start(broker: &Broker, pool_mode: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.expect("a free port").port();
        let (host, upstream) = broker.addr().split_once(':').expect("host:port");
        let settings = format!(
            "[databases]\n* = host={host} port={upstream} user=hydratecache password=hydratecache\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {pool_mode}\nignore_startup_parameters = extra_float_digits\n"
        );
        let path = folder.path().join("pgbouncer.ini");
        write_readable(&path, &settings);
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
        let program = program.iter().find(|path| Path::new(path).is_file());
        let program = program.expect("pgbouncer is missing: scripts/tools.sh pgbouncer:pgbouncer");
        let mut command = Command::new(program);
        // It refuses to run as root.
        if std::env::var("USER").is_ok_and(|user| user == "root") || is_root() {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg("-q")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self { child: child.expect("pgbouncer starts"), port, _folder: folder }
    }

    async fn url(&self) -> String {
        let start = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(start.elapsed() < LIMIT, "pgbouncer does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        format!("postgres://hydratecache:hydratecache@127.0.0.1:{}/hydratecache", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("a pgbouncer was left behind: {error}");
        }
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// Where another user can read it.
fn write_readable(path: &Path, text: &str) {
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let folder = path.parent().expect("it has a folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, open.clone()).expect("opened");
    std::fs::set_permissions(path, open).expect("opened");
}

#[tokio::test]
async fn a_pooler_that_delivers_no_notifications_is_an_error_within_two_seconds() {
    let broker = postgres().await;
    let pooler = Pooler::start(&broker, "transaction");
    let url = pooler.url().await;
    // On a busy machine the pooler may be late: one of three is not.
    let mut answers = Vec::new();
    for _ in 0..3 {
        let attempt = timeout(Duration::from_secs(2), PostgresTransport::connect(&url));
        answers.extend(attempt.await.ok());
    }
    let error = answers.pop().expect("an answer within two seconds").expect_err("deaf");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("pool_mode"), "{error}");
    drop(pooler);

    let pooler = Pooler::start(&broker, "session");
    let transport = PostgresTransport::connect(&pooler.url().await).await.expect("a session");
    let numbers = Channel::<u64>::new(transport, "numbers").expect("legal");
    let mut updates = numbers.subscribe().await.expect("subscribes");
    numbers.publish("one", &1).await.expect("published");
    let event = within(LIMIT, updates.next()).await;
    assert!(matches!(event, Some(Event::Update(_))), "{event:?}");
}

#[tokio::test]
async fn a_subscription_that_nobody_reads_does_not_fill_the_servers_queue() {
    let broker = postgres().await;
    let transport = connect(&broker).await;
    let users = Channel::<String>::new(transport, "users").expect("legal");
    let _unread = users.subscribe().await.expect("subscribes");
    let value = "x".repeat(5_000);
    for _ in 0..20 {
        let batch = (0..200).map(|key| users.publish(key.to_string(), &value));
        for outcome in join_all(batch).await {
            outcome.expect("published");
        }
    }
    let session = Session::open(broker.url()).await;
    let start = Instant::now();
    loop {
        let usage = "SELECT pg_notification_queue_usage()";
        let usage: f64 = session.client.query_one(usage, &[]).await.expect("asks").get(0);
        if usage == 0.0 {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{usage} of the queue is in use");
    }
}
