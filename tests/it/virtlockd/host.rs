//! virtlockd's protocol on a host with systemd, and on a mount that does not respond.

pub(crate) mod activation;
pub(crate) mod hung_mount;
pub(crate) mod restart;
