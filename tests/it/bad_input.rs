//! Every invalid request gets its own clear error, changes nothing, and affects no other client.

mod arguments;
mod descriptors;
mod limits;
mod names;
mod owners;
mod start;
