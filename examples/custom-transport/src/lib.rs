//! A transport for a broker of one's own: `transport.rs` is what you would write for yours,
//! `hub.rs` stands in for the broker, and `frame.rs` is what travels between the two.

mod frame;
mod hub;
mod transport;

pub use hub::Hub;
pub use transport::HubTransport;
