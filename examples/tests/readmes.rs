//! The programs in the READMEs, on the broker that each is for.

use std::time::Duration;

use hydratecache_testkit::broker::{Broker, Kind};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// A test that runs the program of a module, which `build.rs` took out of a page.
macro_rules! program {
    ($module:ident, $broker:ident) => {
        mod $module {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($module), ".rs"));

            #[tokio::test]
            async fn does_what_its_page_says() {
                use super::*;

                let broker = Broker::start(Kind::$broker).await.expect("the broker starts");
                let done = timeout(LIMIT, run(broker.url())).await;
                done.expect("it takes less than a minute").expect("it succeeds");
            }
        }
    };
}

program!(hydratecache, Redis);
program!(redis, Redis);
program!(nats, Nats);
program!(postgres, Postgres);
program!(kafka, Kafka);
