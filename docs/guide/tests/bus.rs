//! The transport of the chapter "Writing a transport" keeps every promise, and is the chapter's.

use std::sync::Arc;

use bytes::Bytes;
use hydratecache::fanout::Fanout;
use hydratecache::{Topic, Transport};
use hydratecache_guide::bus::Bus;
use hydratecache_testkit::conformance::{Capability, Faults, Step, Subject};

struct OnABus(Bus);

impl Subject for OnABus {
    fn name(&self) -> &'static str {
        "the bus"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        Box::pin(async { Ok(Arc::new(self.0.connect()) as Arc<dyn Transport>) })
    }

    fn queue_bytes(&self) -> usize {
        Fanout::DEFAULT_QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Absent("nothing lies between the two ends that could be cut")
    }

    fn inject(&self, _: &Topic, _: Bytes) -> Capability<Step<'_>> {
        Capability::Absent("nobody else speaks to the bus")
    }

    fn secret(&self) -> Capability<String> {
        Capability::Absent("there are no credentials")
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Absent("there are no permissions")
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Absent("a connection is an object")
    }

    fn subscriptions(&self, _: &Topic) -> Capability<Step<'_, usize>> {
        Capability::Absent("the bus does not count them")
    }
}

hydratecache_testkit::conformance_tests!(OnABus(Bus::default()));

/// The code of the chapter is that of the files that are tested, without its first line, which says
/// what the file is.
#[test]
fn the_chapter_shows_the_transport_and_the_suite_that_are_tested() {
    let [bus, suite] = hydratecache_guide::blocks_of("authors.md", "rust")
        .try_into()
        .expect("the transport, and the suite");
    let without_head = |file: &str| file.split_once("\n\n").expect("a head").1.to_owned();
    assert_eq!(bus, without_head(include_str!("../code/bus.rs")));
    let tested = without_head(include_str!("bus.rs"));
    let (subject, _) = tested.split_once("\n/// The code of the chapter").expect("this test");
    assert_eq!(suite, subject);
}
