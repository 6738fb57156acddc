//! libvirt's own lock protocol, as virtlockd speaks it.
//!
//! An unmodified libvirt (`lock_manager = "lockd"`) calls this front as it would call virtlockd. The
//! wire first: [`xdr`] is how numbers and strings are written, [`frame`] is a message with its
//! header, [`call`] what is asked, [`fault`] how a refusal is told. These four touch nothing: no
//! file, no socket, no clock.

pub mod call;
pub mod fault;
pub mod frame;
pub mod xdr;
