//! Starts a worker process, and exchanges messages with it.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};

use crate::inspector::channel::{connect, pair, receive, send};
use crate::inspector::progress::{Progress, ProgressFile};
use crate::inspector::protocol::{
    Answer, Hello, PROTOCOL_VERSION, Reply, Request, WORKER_ARGUMENT,
};

/// The way in which workers are started.
#[derive(Debug)]
pub enum WorkerLauncher {
    /// As a child process that runs this program.
    Program(PathBuf),
    /// By the service manager, on each connection to a socket.
    Socket {
        /// The path of the socket.
        path: PathBuf,
        /// The program of a child process, if no program listens on the socket.
        program: PathBuf,
    },
}

impl WorkerLauncher {
    /// Starts a worker.
    pub(in crate::inspector) fn launch(&self) -> io::Result<WorkerProcess> {
        match self {
            Self::Program(program) => Self::spawn(program),
            Self::Socket { path, program } => match connect(path) {
                Ok(socket) => Ok(WorkerProcess { socket, child: None, identity: None }),
                Err(error) if is_not_listening(&error) => Self::spawn(program),
                Err(error) => Err(error),
            },
        }
    }

    fn spawn(program: &Path) -> io::Result<WorkerProcess> {
        let (ours, theirs) = pair()?;
        let mut command = Command::new(program);
        command.arg(WORKER_ARGUMENT).env_clear().current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        Ok(WorkerProcess { socket: ours, child: Some(child), identity: None })
    }
}

/// Returns whether an error says that no program listens on a socket.
fn is_not_listening(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// A worker process.
#[derive(Debug)]
pub(in crate::inspector) struct WorkerProcess {
    socket: OwnedFd,
    /// The child process, if the worker is one.
    child: Option<Child>,
    /// The pidfd and the progress of the worker, after its first message.
    identity: Option<(OwnedFd, ProgressFile)>,
}

/// The outcome of a query.
pub(in crate::inspector) enum QueryOutcome {
    /// The worker has replied.
    Reply(Reply),
    /// The worker has exited, or the communication with it has failed.
    Ended(String),
    /// The worker has made no progress for too long.
    Hung(Progress),
    /// The deadline has passed.
    TimedOut(Progress),
}

impl WorkerProcess {
    /// Sends a query, and waits for the reply until the deadline. A worker that is ready and makes
    /// no progress for `hang_timeout` counts as hung. Its progress is read every `poll_interval`.
    pub(in crate::inspector) fn query(
        &mut self,
        request: &Request,
        deadline: Instant,
        hang_timeout: Duration,
        poll_interval: Duration,
    ) -> QueryOutcome {
        if let Err(error) = send(&self.socket, request, &[]) {
            return QueryOutcome::Ended(error.to_string());
        }
        let (mut last, mut since) = (self.progress(), Instant::now());
        loop {
            match self.try_receive_reply() {
                Ok(Some(reply)) => return QueryOutcome::Reply(reply),
                Ok(None) => {}
                Err(error) => return QueryOutcome::Ended(error.to_string()),
            }
            let (now, current) = (Instant::now(), self.progress());
            if current != last {
                (last, since) = (current, now);
            } else if self.identity.is_some() && now.duration_since(since) >= hang_timeout {
                return QueryOutcome::Hung(last);
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return QueryOutcome::TimedOut(last);
            }
            if let Err(error) = self.poll(left.min(poll_interval)) {
                return QueryOutcome::Ended(error.to_string());
            }
        }
    }

    /// Waits until the worker is ready.
    pub(in crate::inspector) fn wait_ready(&mut self, deadline: Instant) -> io::Result<()> {
        while !self.receive_hello()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.poll(left)?;
        }
        Ok(())
    }

    /// Waits until the worker has sent a message, for `time` at most.
    fn poll(&self, time: Duration) -> io::Result<()> {
        let time = Timespec::try_from(time).map_err(|_| ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn progress(&self) -> Progress {
        self.identity.as_ref().map(|(_, progress)| progress.read()).unwrap_or_default()
    }

    /// Receives the first message, unless it was received before. Returns whether it was received.
    fn receive_hello(&mut self) -> io::Result<bool> {
        if self.identity.is_none() {
            let Some((Hello { version }, mut fds)) = self.receive()? else { return Ok(false) };
            let (Some(progress), Some(pidfd)) = (fds.pop(), fds.pop()) else {
                return Err(io::Error::other("its first message has no descriptors"));
            };
            self.identity = Some((pidfd, ProgressFile::from(progress)));
            if version != PROTOCOL_VERSION {
                return Err(io::Error::other("it has another protocol version"));
            }
        }
        Ok(true)
    }

    /// Receives a reply. Returns `None` if there is none, or only the first message.
    fn try_receive_reply(&mut self) -> io::Result<Option<Reply>> {
        if !self.receive_hello()? {
            return Ok(None);
        }
        let reply = self.receive::<Answer>()?;
        Ok(reply.map(|(answer, fds)| Reply { answer, fds }))
    }

    fn receive<T: serde::de::DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        match receive(&self.socket, RecvFlags::DONTWAIT) {
            Ok(None) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => Ok(received),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Kills the worker. A hung worker dies when it does not hang any more.
    pub(in crate::inspector) fn kill(&mut self) {
        // The worker may have exited by itself.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        } else if let Some((pidfd, _)) = &self.identity {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Returns whether the worker has exited. A worker that has not sent its first message exits by
    /// itself when its socket is closed.
    pub(in crate::inspector) fn has_exited(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            return !matches!(child.try_wait(), Ok(None));
        }
        let Some((pidfd, _)) = &self.identity else { return true };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
