//! The worker process: answers queries until its socket is closed.

mod describe;
mod identify;
mod namespaces;
mod open_files;
mod proc;
mod search;
mod selection;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::net::RecvFlags;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use self::describe::describe;
use self::identify::identify;
use self::namespaces::{find_by_pid, resolve_names};
use self::open_files::{has_open, open_pipes};
use self::search::search;
use self::selection::Selection;
use super::channel::{check_peer, receive, send};
use super::progress::ProgressFile;
use super::protocol::{Answer, Hello, PROTOCOL_VERSION, Query, Reply, Request, WORKER_ARGUMENT};

/// Runs the worker if the arguments request it.
#[must_use]
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.get(1).is_none_or(|argument| argument != WORKER_ARGUMENT) {
        return None;
    }
    match serve(io::stdin()) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("vmlockd: inspector: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

/// Answers the queries of one socket until its end.
///
/// # Errors
///
/// The errors of the socket, and those of the resources that the worker needs.
pub fn serve(socket: impl AsFd) -> io::Result<()> {
    check_peer(&socket)?;
    let progress = ProgressFile::new()?;
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    send(&socket, &Hello { version: PROTOCOL_VERSION }, &[own.as_fd(), progress.as_fd()])?;
    drop(own);
    while let Some((request, _)) = receive::<serde_json::Value>(&socket, RecvFlags::empty())? {
        let Reply { answer, fds } = match serde_json::from_value::<Request>(request) {
            Ok(request) => answer(&request, &progress),
            // Sent by another version of the service.
            Err(error) => Answer::Failed(error.to_string()).into(),
        };
        progress.clear();
        let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
        send(&socket, &answer, &fds)?;
    }
    Ok(())
}

/// Answers one query.
fn answer(request: &Request, progress: &ProgressFile) -> Reply {
    let Request { query, service_pid, skipped } = request;
    let selection = Selection::new(skipped, *service_pid);
    match query {
        Query::Search(wanted) => Answer::Found(search(wanted, &selection, progress)).into(),
        Query::Describe(pids) => {
            let describe = |pid: &u32| describe(*pid, selection.has(*pid), progress);
            Answer::Described(pids.iter().map(describe).collect()).into()
        }
        Query::Look(wanted) => {
            Answer::View(resolve_names(wanted, &selection, *service_pid, progress)).into()
        }
        Query::Numbered(wanted) => {
            let fd = find_by_pid(*wanted, &selection, progress);
            Reply { answer: Answer::Numbered(fd.is_some()), fds: fd.into_iter().collect() }
        }
        Query::Identify(pids) => {
            let identify = |pid: &u32| identify(*pid, progress);
            Answer::Identified(pids.iter().map(identify).collect()).into()
        }
        Query::OpenPipes(inodes) => open_pipes(inodes, &selection, progress),
        Query::HasOpen(pid, links) => match has_open(*pid, links, progress) {
            Ok(has) => Answer::HasOpen(has).into(),
            Err(error) => Answer::Failed(error.to_string()).into(),
        },
    }
}
