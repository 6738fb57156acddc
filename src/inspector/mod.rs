//! Reads `/proc` files of other processes, in worker processes that can be abandoned.
//!
//! 1. Several files below `/proc/PID` take locks of the process that they describe: `fdinfo/N` of an
//!    epoll descriptor takes its mutex, `cmdline` the lock of its address space. A process that sleeps
//!    in the kernel with such a lock held, for example on a FUSE mount of its own, blocks every reader
//!    as long as it likes, and a thread that is blocked there cannot even be killed.
//! 2. Therefore the service itself never reads these files. It sends a query to a *worker*, a process
//!    of its own (`vmlockd --inspector-worker`), and waits for the answer until a deadline. A worker
//!    that does not answer in time is killed, and abandoned if it does not die.
//! 3. Under systemd, workers are instances of `vmlockd-inspector@.service`, one for each connection to
//!    `vmlockd-inspector.socket`. They have the capabilities for reading `/proc` of other users, which
//!    the service does not have, and a control group of their own: no stop or restart of the service
//!    waits for a worker that hangs. Elsewhere a worker is a child process of the service
//!    ([`WorkerLauncher`]).
//!
//! # The protocol
//!
//! Service and worker are connected by a `SOCK_SEQPACKET` socket; each message is one JSON document
//! ([`channel`]). The worker begins with [`Hello`](protocol::Hello), which carries two descriptors: a
//! pidfd of the worker and its [`progress`] file. After that, there is one [`Reply`](protocol::Reply)
//! to each [`Request`](protocol::Request), in order. A reply may carry descriptors (`SCM_RIGHTS`). The
//! worker exits when the socket is closed.
//!
//! To add a query:
//!
//! 1. a variant of [`Query`](protocol::Query) and one of [`Answer`](protocol::Answer);
//! 2. its arm in `worker::answer`, which calls the code that reads `/proc`; that code calls
//!    [`ProgressFile::set_process`](progress::ProgressFile::set_process) before it reads anything of a
//!    process;
//! 3. a method in `client/queries.rs` that sends the query and unpacks the answer.
//!
//! Service and worker may have different versions for a moment, while one replaces the other. An
//! unknown query is answered with [`Answer::Failed`](protocol::Answer::Failed). A change that gives an
//! old query or answer another meaning raises [`PROTOCOL_VERSION`](protocol::PROTOCOL_VERSION); no
//! query is sent to a worker of another version.
//!
//! # Bounds
//!
//! Each [`Requester`] has one query in progress at most, and there are eight workers at most, hung
//! ones included. A worker records which process it is about to read. The process at which a worker
//! hangs is skipped from then on. If workers hang at several processes of a user, all processes of
//! that user are skipped ([`skip_list`]).

mod channel;
mod client;
mod error;
mod identity;
mod progress;
mod protocol;
mod requester;
mod skip_list;
pub mod worker;

pub use client::worker_process::WorkerLauncher;
pub use client::{Inspector, MAX_ORDINARY_WORKERS, timeouts};
pub use error::Error;
pub use identity::ProcessIdentity;
pub use requester::Requester;
