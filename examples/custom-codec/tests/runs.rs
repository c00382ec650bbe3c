//! The program, as a reader runs it, on a Redis of its own.

use std::process::Command;

use hydratecache_testkit::broker::{Broker, Kind};

#[tokio::test]
async fn both_releases_read_each_other_and_reject_what_is_not_theirs() {
    let redis = Broker::start(Kind::Redis).await.expect("a Redis of its own");
    let mut program = Command::new(env!("CARGO_BIN_EXE_custom-codec"));
    let output = program.env("REDIS_URL", redis.url()).output().expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let [ada, whole_ada, grace, whole_grace, rejected] = read[..] else {
        panic!("five answers, not these:\n{shown}");
    };
    assert!(ada.ends_with(r#"User { name: "Ada", age: 36 })"#), "{ada}");
    assert!(whole_ada.ends_with(r#"age: 36, email: Some("ada@example.org") })"#), "{whole_ada}");
    assert!(grace.ends_with(r#"User { name: "Grace", age: 85 })"#), "{grace}");
    assert!(whole_grace.ends_with("age: 85, email: None })"), "{whole_grace}");
    assert!(rejected.contains("rejects it"), "{rejected}");
}
