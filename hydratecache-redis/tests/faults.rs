//! What users see when Redis, the link to it or they themselves misbehave. Every fault is real: a
//! server of its own that is killed, paused or told to cut, or a proxy on the way to it.
//!
//! With `HYDRATECACHE_EFFORT=full` outages last for minutes and races are run for long.

#[path = "faults/close.rs"]
mod close;
#[path = "faults/endurance.rs"]
mod endurance;
#[path = "faults/fence.rs"]
mod fence;
#[path = "faults/input.rs"]
mod input;
#[path = "faults/link.rs"]
mod link;
#[path = "faults/outage.rs"]
mod outage;
#[path = "faults/permission.rs"]
mod permission;
#[path = "faults/readers.rs"]
mod readers;
mod support;
#[path = "faults/unconfirmed.rs"]
mod unconfirmed;
