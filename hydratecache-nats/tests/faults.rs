//! What users see when NATS, the link to it or they themselves misbehave: the suite of the testkit,
//! and what only NATS does.

#[path = "faults/cluster.rs"]
mod cluster;
#[path = "faults/subject.rs"]
mod subject;
mod support;

hydratecache_testkit::fault_tests!(subject::Nats::start().await);
