//! Clients of the private socket, which are connected without a bus.
//!
//! 1. [`client`] serves one client.
//! 2. [`handshake`] authenticates it.
//! 3. [`bus_driver`] answers the calls that libraries send to a bus.

mod bus_driver;
mod client;
mod handshake;
