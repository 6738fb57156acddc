//! The messages between the service and a worker.
//!
//! The names of fields and variants are part of the protocol. Service and worker may have different
//! versions for a moment, while one replaces the other.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::identity::ProcessIdentity;
use super::skip_list::SkipList;
use crate::lock::model::process::Process;
use crate::lock::model::process_search::{Found, Search};
use crate::lock::resolve::view::{Look, Numbered, View};

/// The version of the protocol.
pub(super) const PROTOCOL_VERSION: u32 = 1;
/// The argument that makes the program a worker, whose socket is its standard input.
pub(super) const WORKER_ARGUMENT: &str = "--inspector-worker";

/// The first message of a worker. Its pidfd and its progress file accompany it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The version of the protocol.
    pub(super) version: u32,
}

/// A query, with the context that the worker needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    /// The query.
    #[serde(rename = "question")]
    pub(super) query: Query,
    /// The pid of the service, which the worker does not read.
    #[serde(rename = "service")]
    pub(super) service_pid: u32,
    /// The processes that the worker must not read.
    pub(super) skipped: SkipList,
}

/// A query to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Query {
    /// Finds the processes that have these locks and files.
    Search(Search),
    /// Describes these processes.
    Describe(Vec<u32>),
    /// Resolves names as a process does, and compares its pid namespace with that of the service.
    Look(Look),
    /// Finds a process by its number in the pid namespace of another process.
    Numbered(Numbered),
    /// Identifies these processes. Takes no lock of these processes.
    Identify(Vec<u32>),
    /// Opens the write ends of these pipes of the service, given by their inodes, in the processes
    /// that have them open.
    OpenPipes(Vec<u64>),
    /// Checks whether a process has open files for all of these links (`socket:[7]`).
    HasOpen(u32, Vec<String>),
}

/// An answer of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Answers [`Query::Search`].
    Found(Found),
    /// Answers [`Query::Describe`], in the order of the query; `None` for a process that does not
    /// exist.
    Described(Vec<Option<Process>>),
    /// Answers [`Query::Look`].
    View(View),
    /// Answers [`Query::Numbered`]: whether the process exists. Its pidfd accompanies the reply.
    Numbered(bool),
    /// Answers [`Query::Identify`], in the order of the query; `None` for a process that does not
    /// exist.
    Identified(Vec<Option<ProcessIdentity>>),
    /// Answers [`Query::OpenPipes`] with the pipes that were found. A descriptor for each
    /// accompanies the reply, in this order.
    Opened {
        /// The inodes.
        inodes: Vec<u64>,
        /// Whether the reply has no room for more pipes, although others may be open.
        full: bool,
    },
    /// Answers [`Query::HasOpen`].
    HasOpen(bool),
    /// Answers any query with the reason for its failure.
    Failed(String),
}

/// An answer with its descriptors.
#[derive(Debug)]
pub(super) struct Reply {
    /// The answer.
    pub(super) answer: Answer,
    /// The descriptors that the query has requested.
    pub(super) fds: Vec<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, fds: Vec::new() }
    }
}
