//! What users see when Redis, the link to it or they themselves misbehave: the suite of the testkit,
//! and what only Redis does.

#[path = "faults/fence.rs"]
mod fence;
#[path = "faults/link.rs"]
mod link;
#[path = "faults/outage.rs"]
mod outage;
#[path = "faults/permission.rs"]
mod permission;
#[path = "faults/subject.rs"]
mod subject;
mod support;

hydratecache_testkit::fault_tests!(subject::Redis::start().await);
