//! Every transport through a few seconds of faults, on its real broker.

use std::time::Duration;

use hydratecache_soak::herd::{Herd, reconnect};
use hydratecache_soak::options::{Kind, Options};
use hydratecache_soak::run::soak;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_silence() {
    for kind in Kind::ALL {
        let seed = rand::random();
        let time = Duration::from_secs(8);
        let options = Options { kind, time, seed, writers: 2, readers: 2 };
        let report = soak(options).await.unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        println!("{report}");
        assert!(report.is_clean(), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_ready_within_five_seconds_of_a_restart() {
    for kind in [Kind::Redis, Kind::Nats] {
        let report = reconnect(Herd { kind, transports: 100, topics: 1 }).await;
        let report = report.unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        println!("{report}");
        assert!(report.is_in_time(), "{report}");
    }
}
