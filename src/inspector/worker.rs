//! The worker: answers questions until nobody asks any more.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::net::RecvFlags;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::channel::{check_peer, receive, send};
use super::describe::describe;
use super::identify::identify;
use super::pipes::{has_open, open_pipes};
use super::position::Position;
use super::view::{look, numbered};
use super::walk::{Selection, search};
use super::{Answer, Hello, Question, Reply, Request, VERSION};

/// The argument that makes the program a worker, whose socket is its standard input.
pub(super) const ARGUMENT: &str = "--inspector-worker";

/// Runs the worker, if that is what these arguments say.
#[must_use]
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.get(1).is_none_or(|argument| argument != ARGUMENT) {
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

/// Serves one socket to its end.
///
/// # Errors
///
/// Where the socket, or what the worker needs for itself, can't be had.
pub fn serve(socket: impl AsFd) -> io::Result<()> {
    check_peer(&socket)?;
    let position = Position::new()?;
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    send(&socket, &Hello { version: VERSION }, &[own.as_fd(), position.as_fd()])?;
    drop(own);
    while let Some((request, _)) = receive::<serde_json::Value>(&socket, RecvFlags::empty())? {
        let Reply { answer, fds } = match serde_json::from_value::<Request>(request) {
            Ok(request) => answer(&request, &position),
            // Of another version of the service.
            Err(error) => Answer::Failed(error.to_string()).into(),
        };
        position.leave();
        let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
        send(&socket, &answer, &fds)?;
    }
    Ok(())
}

/// Answers one question.
pub(super) fn answer(request: &Request, position: &Position) -> Reply {
    let Request { question, service, skipped } = request;
    let selection = Selection::new(skipped, *service);
    match question {
        Question::Search(wanted) => Answer::Found(search(wanted, &selection, position)).into(),
        Question::Describe(pids) => {
            let describe = |pid: &u32| describe(*pid, selection.has(*pid), position);
            Answer::Described(pids.iter().map(describe).collect()).into()
        }
        Question::Look(wanted) => Answer::View(look(wanted, &selection, *service, position)).into(),
        Question::Numbered(wanted) => {
            let fd = numbered(*wanted, &selection, position);
            Reply { answer: Answer::Numbered(fd.is_some()), fds: fd.into_iter().collect() }
        }
        Question::Identify(pids) => {
            let identify = |pid: &u32| identify(*pid, position);
            Answer::Identified(pids.iter().map(identify).collect()).into()
        }
        Question::OpenPipes(inodes) => open_pipes(inodes, &selection, position),
        Question::HasOpen(pid, links) => match has_open(*pid, links, position) {
            Ok(has) => Answer::HasOpen(has).into(),
            Err(error) => Answer::Failed(error.to_string()).into(),
        },
    }
}
