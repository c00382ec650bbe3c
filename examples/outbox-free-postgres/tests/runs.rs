//! The program, as a reader runs it, on a PostgreSQL of its own.

use std::process::Command;

use hydratecache_testkit::broker::{Broker, Kind};

#[tokio::test]
async fn the_replica_has_what_was_committed_and_nothing_else() {
    let postgres = Broker::start(Kind::Postgres).await.expect("a PostgreSQL of its own");
    let mut program = Command::new(env!("CARGO_BIN_EXE_outbox-free-postgres"));
    program.env("DATABASE_URL", postgres.url());
    // Twice: what the first run left there does not disturb the second.
    for _ in 0..2 {
        let output = program.output().expect("it runs");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
        let replica: Vec<&str> =
            shown.lines().filter_map(|line| line.strip_prefix("    the replica: ")).collect();
        assert_eq!(
            replica,
            [
                "[pen 250]",
                "[ink 900, nib 120, pen 250]",
                "[ink 900, nib 120, pen 250]",
                "[ink 900, nib 240, pen 500]",
                "[nib 1, pen 1]",
                "[]",
            ]
        );
    }
}
