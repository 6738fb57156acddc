//! Processes of this host, as systemd and `/proc` report them.
//!
//! [`mod@unit`] reads the service's unit, [`starter`] determines what started its process,
//! [`libvirt_socket`] whether it serves libvirt, and [`lock_file`] finds the process without the
//! bus. [`open_files`] lists the open files of any process.

pub(crate) mod libvirt_socket;
pub(crate) mod lock_file;
pub(crate) mod open_files;
pub(crate) mod starter;
pub(crate) mod unit;
