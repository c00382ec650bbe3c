//! The program, as a reader runs it, on a Kafka of its own.

use std::process::Command;

use hydratecache_testkit::broker::{Broker, Kind};

#[tokio::test]
async fn an_instance_that_starts_has_every_item_and_stays_warm() {
    let kafka = Broker::start(Kind::Kafka).await.expect("a Kafka of its own");
    let mut program = Command::new(env!("CARGO_BIN_EXE_kafka-warm-start"));
    program.env("KAFKA_URL", kafka.url());
    // Twice: first the topic is new, then it holds what the first run wrote.
    for _ in 0..2 {
        let output = program.output().expect("it runs");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> =
            shown.lines().map(|line| line.split(", after ").next().unwrap_or(line)).collect();
        assert_eq!(
            lines,
            [
                "written: 5000 items, twice, and one is removed",
                "an instance that starts: 4999 items, 0 gaps",
                "and it stays warm: item:1 costs 300 now",
            ]
        );
    }
}
