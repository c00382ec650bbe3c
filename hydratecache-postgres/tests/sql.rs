//! Publishing from SQL: what the functions and triggers of `sql/` say, on a real server, and what
//! they refuse.

mod support;

use std::collections::HashMap;
use std::process::Command;

use futures::future::join_all;
use hydratecache::{ErrorKind, Topic};
use hydratecache_postgres::{Attachment, Migration};
use hydratecache_testkit::broker::Broker;
use serde_json::{Value, json};
use support::{Session, postgres, said};

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text)";

async fn installed() -> (Broker, Session) {
    let broker = postgres().await;
    let session = Session::open(broker.url()).await;
    Migration::install(&session.client).await.expect("installs");
    (broker, session)
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("legal")
}

/// A server with the table `users`, attached to the topic of that name, and a listener to it.
async fn users() -> (Broker, Session) {
    let (broker, session) = installed().await;
    session.run(USERS).await;
    Attachment::new("users", topic("users")).attach(&session.client).await.expect("attaches");
    session.run("LISTEN users").await;
    (broker, session)
}

fn number(message: &Value, member: &str) -> u64 {
    message[member].as_u64().unwrap_or_else(|| panic!("{member} is a number in {message}"))
}

#[tokio::test]
async fn every_write_of_an_attached_table_publishes_what_it_did_in_order() {
    let (_broker, mut session) = users().await;
    session.run("INSERT INTO users VALUES (1, 'Ada'), (2, 'O''Hara \"\\')").await;
    session.run("UPDATE users SET name = 'Bob' WHERE id = 1").await;
    session.run("UPDATE users SET id = 3 WHERE id = 1").await;
    session.run("DELETE FROM users WHERE id = 2").await;
    session.run("BEGIN; INSERT INTO users VALUES (9, 'nobody'); ROLLBACK").await;
    session.run("TRUNCATE users").await;
    session.run("COPY users FROM PROGRAM 'printf ''7\\tEve\\n8\\t\\\\N\\n'''").await;
    let published = session.published().await;
    let expected = [
        r#"put 1 {"id":1,"name":"Ada"}"#,
        r#"put 2 {"id":2,"name":"O'Hara \"\\"}"#,
        r#"put 1 {"id":1,"name":"Bob"}"#,
        "remove 1",
        r#"put 3 {"id":3,"name":"Bob"}"#,
        "remove 2",
        "clear",
        r#"put 7 {"id":7,"name":"Eve"}"#,
        r#"put 8 {"id":8,"name":null}"#,
    ];
    assert_eq!(said(&published), expected);
    assert!(published.iter().is_sorted_by_key(|message| number(message, "version")));
    let xids: Vec<u64> = published.iter().map(|message| number(message, "xid")).collect();
    assert_eq!(xids[0], xids[1], "one transaction");
    assert!(xids[1] < xids[2]);
}

#[tokio::test]
async fn versions_of_a_row_grow_in_the_order_of_its_writes_however_many_write() {
    let (broker, mut session) = users().await;
    session.run("INSERT INTO users SELECT n, '' FROM generate_series(1, 3) AS n").await;
    let writers = (0..8).map(|writer| {
        let url = broker.url().to_owned();
        async move {
            let session = Session::open(&url).await;
            for turn in 0..50 {
                // The transaction takes its number first and the row's lock last.
                session
                    .run(&format!(
                        "BEGIN; SELECT pg_current_xact_id(); \
                         UPDATE users SET name = '{writer}.{turn}' WHERE id = {}; COMMIT",
                        turn % 3 + 1
                    ))
                    .await;
            }
        }
    });
    join_all(writers).await;
    let mut latest: HashMap<String, (u64, Value)> = HashMap::new();
    let published = session.published().await;
    assert_eq!(published.len(), 3 + 8 * 50);
    for message in &published {
        let key = message["key"].as_str().expect("a key").to_owned();
        let version = number(message, "version");
        let before = latest.insert(key, (version, message["value"].clone()));
        assert!(before.is_none_or(|(before, _)| before < version), "{message}");
    }
    for row in session.client.query("SELECT id, name FROM users", &[]).await.expect("reads") {
        let (id, name): (i64, String) = (row.get(0), row.get(1));
        assert_eq!(latest[&id.to_string()].1, json!({ "id": id, "name": name }));
    }
}

#[tokio::test]
async fn a_row_too_large_for_a_notification_is_an_invalidation_and_the_largest_that_fits_a_value() {
    let (_broker, mut session) = users().await;
    session.run("INSERT INTO users VALUES (1, repeat('x', 5000))").await;
    let length = {
        let published = session.published().await;
        assert_eq!(published[0]["kind"], "put");
        serde_json::to_string(&published[0]).expect("JSON").len()
    };
    // The version and the transaction keep their number of digits.
    let most = 7999 - length + 5000;
    session.run(&format!("UPDATE users SET name = repeat('x', {most})")).await;
    session.run(&format!("UPDATE users SET name = repeat('x', {most} + 1)")).await;
    session.run("UPDATE users SET name = repeat('é', 4000)").await;
    session.run("SELECT hydratecache.publish('users', '1', to_jsonb(repeat('x', 8000)))").await;
    let published = session.published().await;
    let kinds: Vec<&Value> = published.iter().map(|message| &message["kind"]).collect();
    assert_eq!(kinds, ["put", "invalidate", "invalidate", "invalidate"]);
    assert!(published.iter().is_sorted_by_key(|message| number(message, "version")));
}

#[tokio::test]
async fn a_write_that_a_trigger_of_the_application_overtook_is_an_invalidation() {
    let (_broker, mut session) = users().await;
    session
        .run(
            "INSERT INTO users VALUES (1, 'a'), (2, 'b');
             CREATE FUNCTION touch_others() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF pg_trigger_depth() = 1 THEN
                 UPDATE users SET name = name || '!' WHERE id <> NEW.id;
               END IF;
               RETURN NULL; END $$;
             CREATE TRIGGER \"!a\" AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch_others();",
        )
        .await;
    session.published().await;
    session.run("UPDATE users SET name = name || '?'").await;
    let published = session.published().await;
    let rows = session.client.query("SELECT id::text, row_to_json(users)::text FROM users", &[]);
    // The last word on each key is the row, or that it is to be loaded.
    for row in rows.await.expect("reads") {
        let (key, value): (String, String) = (row.get(0), row.get(1));
        let last = published.iter().rfind(|message| message["key"] == *key).expect("published");
        let is_row = last["value"] == serde_json::from_str::<Value>(&value).expect("JSON");
        assert!(is_row || last["kind"] == "invalidate", "{value} and {published:#?}");
    }
    assert!(published.iter().any(|message| message["kind"] == "invalidate"));
    session.run("UPDATE users SET name = 'x' WHERE id = 0").await;
    session.run("ALTER TABLE users DISABLE TRIGGER \"!a\"; UPDATE users SET name = 'z'").await;
    let kinds = session.published().await;
    assert!(kinds.iter().all(|message| message["kind"] == "put"), "a new transaction: {kinds:?}");
}

#[tokio::test]
async fn keys_of_several_columns_and_long_topics_are_unambiguous() {
    let (_broker, mut session) = installed().await;
    session
        .run("CREATE TABLE pairs (a text, b int, v int UNIQUE NOT NULL, PRIMARY KEY (a, b))")
        .await;
    let long = topic(&"comp".repeat(20));
    Attachment::new("pairs", long.clone()).attach(&session.client).await.expect("attaches");
    let channel = "SELECT hydratecache.channel($1)";
    let channel: String =
        session.client.query_one(channel, &[&long.as_str()]).await.expect("hashes").get(0);
    session.run(&format!("LISTEN \"{channel}\"")).await;
    session.run("INSERT INTO pairs VALUES ('x:y\\z', 5, 1)").await;
    let published = session.published().await;
    assert_eq!(published[0]["key"], "x\\:y\\\\z:5");
    assert_eq!(published[0]["topic"], long.as_str());
    // Attached again, with other key columns: the earlier triggers are gone.
    let again = Attachment::new("public.pairs", long).with_key_columns(["v"]);
    again.attach(&session.client).await.expect("attaches again");
    session.run("UPDATE pairs SET b = 6").await;
    let published = session.published().await;
    assert_eq!(said(&published), [r#"put 1 {"a":"x:y\\z","b":6,"v":1}"#]);
    Attachment::detach(&session.client, "pairs").await.expect("detaches");
    session.run("UPDATE pairs SET b = 7; TRUNCATE pairs").await;
    assert!(session.published().await.is_empty());
}

#[tokio::test]
async fn a_key_whose_text_changes_is_removed_though_its_columns_are_equal() {
    let (_broker, mut session) = installed().await;
    session.run("CREATE TABLE prices (area text, price numeric, PRIMARY KEY (area, price))").await;
    Attachment::new("prices", topic("prices")).attach(&session.client).await.expect("attaches");
    session.run("LISTEN prices").await;
    session.run("INSERT INTO prices VALUES ('a:b', 1.0)").await;
    session.run("UPDATE prices SET area = area").await;
    session.run("UPDATE prices SET price = 1.00").await;
    session.run("DELETE FROM prices").await;
    let published = session.published().await;
    let expected = [
        r#"put a\:b:1.0 {"area":"a:b","price":1.0}"#,
        r#"put a\:b:1.0 {"area":"a:b","price":1.0}"#,
        r"remove a\:b:1.0",
        r#"put a\:b:1.00 {"area":"a:b","price":1.0}"#,
        r"remove a\:b:1.00",
    ];
    assert_eq!(said(&published), expected);
}

#[tokio::test]
async fn a_row_whose_key_no_message_can_carry_is_written_all_the_same() {
    let (_broker, mut session) = installed().await;
    session.run("CREATE TABLE names (name text PRIMARY KEY)").await;
    Attachment::new("names", topic("names")).attach(&session.client).await.expect("attaches");
    session.run("LISTEN names").await;
    session.run("INSERT INTO names VALUES (''), (repeat('é', 513)), (repeat('é', 512))").await;
    let published = session.published().await;
    assert_eq!(published.len(), 1);
    assert_eq!(published[0]["key"].as_str().map(str::len), Some(1024));
}

#[tokio::test]
async fn whoever_may_write_to_the_table_needs_no_other_right() {
    let (broker, mut session) = users().await;
    session.run("CREATE ROLE app LOGIN PASSWORD 'app'; GRANT INSERT ON users TO app").await;
    let url = format!("postgres://app:app@{}/hydratecache", broker.addr());
    let app = Session::open(&url).await;
    app.run("INSERT INTO public.users VALUES (1, 'Ada')").await;
    app.run("SELECT hydratecache.publish('users', '2', '{}', '1 hour')").await;
    let published = session.published().await;
    assert_eq!(said(&published), [r#"put 1 {"id":1,"name":"Ada"}"#, "put 2 {}"]);
    assert_eq!(published[1]["ttl"][1], 3_600_000_000_u64);
    let denied = Attachment::new("users", topic("mine")).attach(&app.client).await;
    let error = denied.expect_err("the role does not own the table");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("GRANT TRIGGER"), "{error}");
}

#[tokio::test]
async fn a_table_that_cannot_be_attached_is_an_error_that_says_what_to_do() {
    let (_broker, session) = users().await;
    session
        .run(
            "CREATE TABLE keyless (a int, b text NOT NULL, at timestamptz NOT NULL UNIQUE);
             CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY RANGE (a);
             CREATE VIEW seen AS SELECT * FROM users;
             CREATE TABLE later (a int PRIMARY KEY DEFERRABLE);
             CREATE TABLE other (a int PRIMARY KEY)",
        )
        .await;
    let attach = async |table: &str, columns: &[&str], name: &str| {
        let attachment = Attachment::new(table, topic(name)).with_key_columns(columns.to_vec());
        attachment.attach(&session.client).await
    };
    for (table, columns, name, what) in [
        ("missing", &[][..], "t", "relation \"missing\" does not exist"),
        ("keyless", &[], "t", "Name its key columns"),
        ("keyless", &["zz"], "t", "no column zz"),
        ("keyless", &["a"], "t", "Make it NOT NULL"),
        ("keyless", &["b"], "t", "do not tell rows apart"),
        ("keyless", &["at"], "t", "depends on the session"),
        ("later", &[], "t", "do not tell rows apart"),
        ("parted", &[], "t", "not an ordinary table"),
        ("seen", &["id"], "t", "not an ordinary table"),
        ("other", &[], "users", "belongs to table users"),
    ] {
        let error = attach(table, columns, name).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    for (call, code) in [
        ("publish('a..b', 'k', '1')", "HC002"),
        ("publish('t', '', '1')", "HC003"),
        ("publish('t', 'k', '1', NULL, -1)", "HC004"),
        ("publish('t', 'k', NULL)", "HC005"),
        ("publish('t', 'k', '1', '0 seconds')", "HC006"),
        ("remove('t', NULL)", "HC003"),
        ("clear(NULL)", "HC002"),
    ] {
        let refused = session.client.batch_execute(&format!("SELECT hydratecache.{call}")).await;
        let error = refused.expect_err(call);
        let answer = error.as_db_error().expect("the server's answer");
        assert_eq!((answer.code().code(), answer.hint().is_some()), (code, true), "{call}");
    }
}

#[tokio::test]
async fn installing_is_idempotent_for_many_at_once_and_refuses_a_newer_schema() {
    let broker = postgres().await;
    let sessions = join_all((0..6).map(|_| Session::open(broker.url()))).await;
    let none = Migration::installed(&sessions[0].client).await.expect("asks");
    assert_eq!(none, None);
    let missing = Attachment::new("pg_class", topic("t")).attach(&sessions[0].client).await;
    assert!(missing.expect_err("not installed").to_string().contains("Migration::install"));
    for outcome in
        join_all(sessions.iter().map(|session| Migration::install(&session.client))).await
    {
        outcome.expect("installs");
    }
    let version = "SELECT nextval('hydratecache.versions')";
    let before: i64 = sessions[0].client.query_one(version, &[]).await.expect("draws").get(0);
    let psql = Command::new("psql")
        .args([broker.url(), "-v", "ON_ERROR_STOP=1", "-q", "-f", "sql/0001_publish.sql"])
        .output()
        .expect("psql runs; it is in Debian's postgresql-client");
    assert!(psql.status.success(), "{psql:?}");
    let after: i64 = sessions[0].client.query_one(version, &[]).await.expect("draws").get(0);
    assert_eq!(after, before + 1, "versions go on");
    let advance = "SELECT hydratecache.advance_versions()";
    let ahead: i64 = sessions[0].client.query_one(advance, &[]).await.expect("advances").get(0);
    assert!(ahead > after);

    sessions[0].run("INSERT INTO hydratecache.migrations VALUES (1000)").await;
    let error = Migration::install(&sessions[0].client).await.expect_err("a newer schema");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("newer than 1"), "{error}");
    sessions[0].run("SELECT 1").await;
}

#[tokio::test]
async fn a_role_that_may_not_create_a_schema_is_told_so() {
    let broker = postgres().await;
    let admin = Session::open(broker.url()).await;
    admin.run("CREATE ROLE app LOGIN PASSWORD 'app'").await;
    let url = format!("postgres://app:app@{}/hydratecache", broker.addr());
    let app = Session::open(&url).await;
    let error = Migration::install(&app.client).await.expect_err("no right to create a schema");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    Migration::install(&admin.client).await.expect("installs");
    Migration::install(&app.client).await.expect("there is nothing to do");
}
