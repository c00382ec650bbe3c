//! Tools that show whether a transport keeps its promises.
pub mod broker;
pub mod chaos;
pub mod conformance;
pub mod faults;
pub mod kafka;
pub mod proxy;
