//! The tour, as a reader runs it, on a PostgreSQL of its own.

use std::process::Command;

use hydratecache_testkit::broker::{Broker, Kind};

#[tokio::test]
async fn a_write_on_one_instance_is_seen_on_the_other() {
    let postgres = Broker::start(Kind::Postgres).await.expect("a PostgreSQL of its own");
    let mut tour = Command::new(env!("CARGO_BIN_EXE_axum-moka"));
    let output = tour.env("DATABASE_URL", postgres.url()).output().expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    let asked = shown.lines().filter(|line| !line.contains("listening"));
    let answers: Vec<_> = asked.map(words).collect();
    let (ada, grace) = (r#"{"id":1,"name":"Ada"}"#, r#"{"id":1,"name":"Grace"}"#);
    assert_eq!(
        answers,
        [
            r#"one: PUT /users/1 {"name":"Ada"} 204"#.to_owned(),
            format!("two: GET /users/1 200 {ada}"),
            r#"two: PUT /users/1 {"name":"Grace"} 204"#.to_owned(),
            format!("one: GET /users/1 200 {grace}"),
            format!("one: GET /users/1 200 {grace}"),
            r#"two: PUT /users/1 {"name":""} 422"#.to_owned(),
            format!("one: GET /users/1 200 {grace}"),
            "one: GET /loads 200 0".to_owned(),
            "two: GET /loads 200 0".to_owned(),
            "two: DELETE /users/1 204".to_owned(),
            "one: GET /users/1 404".to_owned(),
            "one: GET /users/1 404".to_owned(),
            "one: GET /loads 200 1".to_owned(),
        ]
    );
}

/// A line without its note, and with single spaces.
fn words(line: &str) -> String {
    let (line, _note) = line.split_once('#').unwrap_or((line, ""));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
