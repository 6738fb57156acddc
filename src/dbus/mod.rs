//! Floor 3: the D-Bus frontend.
//!
//! Read `interface` first: it contains the objects on the bus. A method call takes this path:
//!
//! 1. `interface`: the method decodes its arguments, and has the call accepted by
//!    [`auth`](crate::auth).
//! 2. `request`: validates and authorizes a change, and requests it from the service. `query`:
//!    collects what a list or a lookup returns.
//! 3. `reply`: encodes rows as dictionaries, and bounds large replies. [`error`]: maps the errors
//!    of all floors to D-Bus errors.
//!
//! `publish` makes the events of the service visible as objects and signals; only it adds and
//! removes objects. `server` connects to the bus, and `private_socket` serves root without a
//! bus.
//!
//! Objects have an identifier and a handle on the shared `context`, and no state of their own. No
//! method takes `&mut self`, since zbus locks an interface for the duration of such a call.

mod context;
pub mod error;
mod interface;
mod private_socket;
mod publish;
mod query;
mod reply;
mod request;
mod server;

pub use context::{ControlReply, ControlRequest};
pub use server::{NAME, ServeError, Server, serve};
