//! What users see when PostgreSQL, the link to it or they themselves misbehave: the suite of the
//! testkit. What only PostgreSQL does is in `delivery.rs` and `sql.rs`.

#[path = "faults/listener.rs"]
mod listener;
#[path = "faults/subject.rs"]
mod subject;
mod support;

hydratecache_testkit::fault_tests!(subject::Postgres::start().await);
