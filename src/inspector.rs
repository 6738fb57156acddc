//! Reads what `/proc` tells of other processes, in processes that can be left behind.
//!
//! Several files below `/proc/PID` take locks of the process that they describe: `fdinfo/N` of an
//! epoll descriptor its mutex, `cmdline` the lock of its address space. A process that sleeps in the
//! kernel with such a lock held, on a FUSE mount of its own for example, blocks every reader for as
//! long as it likes, and a thread that is blocked there can't even be killed. So the service itself
//! never reads these files. It asks a *worker*, a process of its own (`vmlockd --inspector-worker`),
//! and waits for the answer up to a deadline. A worker that does not answer in time is killed, and
//! left behind if it does not die.
//!
//! Under systemd, workers are instances of `vmlockd-inspector@.service`, one for each connection to
//! `vmlockd-inspector.socket`. They have the capabilities that reading `/proc` of others takes, which
//! the service does not have, and a control group of their own: no stop or restart of the service
//! waits for a worker that hangs. Elsewhere a worker is a child process of the service
//! ([`hand::Start`]).
//!
//! # The protocol
//!
//! Service and worker are connected by a `SOCK_SEQPACKET` socket; each message is one JSON document. The
//! worker begins with [`Hello`], which carries two descriptors: a pidfd of the worker and its
//! [`position`]. Then for each [`Request`] there is one [`Reply`], in order. A reply may carry
//! descriptors (`SCM_RIGHTS`). The worker ends when the socket ends.
//!
//! To add a question:
//!
//! 1. a variant of [`Question`] and one of [`Answer`];
//! 2. its arm in [`worker::answer`], which calls the code that reads `/proc`; that code calls
//!    [`Position::at`](position::Position::at) with the process before it reads anything of it;
//! 3. a method of [`Inspector`] beside [`Inspector::search`] that asks it and unpacks the answer.
//!
//! Service and worker may be of different versions for a moment, while one replaces the other. An
//! unknown question is answered with [`Answer::Failed`]. A change that gives an old question or
//! answer another meaning raises [`VERSION`]; a worker of another version is not asked.
//!
//! # Bounds
//!
//! Each [`Asker`] has at most one question at a time, and all together at most
//! [`client::WORKERS`] workers, hung ones included. A worker writes down which process it is about to
//! look at. The process at which one hangs is skipped from then on, and, where several processes of a
//! user did that, all processes of that user ([`skip`]).

mod channel;
pub mod client;
mod describe;
pub mod hand;
pub mod identify;
pub mod patience;
mod pipes;
pub mod position;
mod questions;
pub mod skip;
mod threads;
mod view;
mod walk;
pub mod worker;

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

pub use client::Inspector;
use identify::Identity;
use skip::Skipped;

use crate::lock::foreign::fdinfo::{Found, Search};
use crate::lock::model::process::Process;
use crate::lock::resolve::view::{Look, Numbered, View};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// The first message of a worker. Carries its pidfd and its position.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol that it speaks.
    pub version: u32,
}

/// A question with what the worker has to know besides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The question.
    pub question: Question,
    /// The number of the service, which does not look for itself.
    pub service: u32,
    /// The processes that are not to be looked at.
    pub skipped: Skipped,
}

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Which processes have these locks and files.
    Search(Search),
    /// What these processes are.
    Describe(Vec<u32>),
    /// Where names lead for a process, and what process numbers mean to it.
    Look(Look),
    /// Which process has a number for another process.
    Numbered(Numbered),
    /// What identifies these processes. Takes no lock of theirs.
    Identify(Vec<u32>),
    /// The write ends of these pipes of the service's, by their inodes, which processes have open.
    OpenPipes(Vec<u64>),
    /// Whether a process has files open to which all of these links lead (`socket:[7]`).
    HasOpen(u32, Vec<String>),
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Search`].
    Found(Found),
    /// To [`Question::Describe`]: in the order of the question; nothing for a process that is gone.
    Described(Vec<Option<Process>>),
    /// To [`Question::Look`].
    View(View),
    /// To [`Question::Numbered`]: whether there is one. It is carried as a descriptor.
    Numbered(bool),
    /// To [`Question::Identify`]: in the order of the question; nothing for a process that is gone.
    Identified(Vec<Option<Identity>>),
    /// To [`Question::OpenPipes`]: those that were found. The reply carries a descriptor for each, in
    /// this order.
    Opened {
        /// The inodes.
        inodes: Vec<u64>,
        /// The reply has no room for more; others may be there.
        full: bool,
    },
    /// To [`Question::HasOpen`].
    HasOpen(bool),
    /// To any question: why there is no answer.
    Failed(String),
}

/// An answer, and the descriptors that it may carry.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// The descriptors that the question asked for.
    pub fds: Vec<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, fds: Vec::new() }
    }
}

/// On whose behalf a question is asked. Each has one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A user of the bus.
    User(u32),
    /// The callers of a user, of whom it is asked what they see.
    Callers(u32),
    /// The front that serves libvirt.
    Front,
    /// The service itself.
    Service,
}

impl Asker {
    /// Whether it may use the workers that are reserved for the administrator and for libvirt.
    #[must_use]
    pub fn is_privileged(self) -> bool {
        !matches!(self, Self::User(uid) | Self::Callers(uid) if uid != 0)
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There was no answer in time.
    #[error("the inspector did not respond in time")]
    Late,
    /// As many workers hang, or are busy, as there may be.
    #[error("all workers of the inspector are busy or hung")]
    Busy,
    /// No worker can be had.
    #[error("cannot start a worker of the inspector: {0}")]
    Start(std::io::Error),
    /// A worker ended, or said something that is not understood.
    #[error("a worker of the inspector failed: {0}")]
    Worker(String),
}
