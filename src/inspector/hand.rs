//! One worker, as the service holds it.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};

use super::channel::{connect, pair, receive, send};
use super::position::{Place, Position};
use super::worker::ARGUMENT;
use super::{Answer, Hello, Reply, Request, VERSION};

/// How a worker is started.
#[derive(Debug)]
pub enum Start {
    /// As a child process that runs this program.
    Program(PathBuf),
    /// By the service manager, for each connection to a socket.
    Socket {
        /// The socket.
        path: PathBuf,
        /// The program of a child process, where nothing listens on the socket.
        program: PathBuf,
    },
}

impl Start {
    /// Starts a worker.
    pub(super) fn worker(&self) -> io::Result<Hand> {
        match self {
            Self::Program(program) => Self::child(program),
            Self::Socket { path, program } => match connect(path) {
                Ok(socket) => Ok(Hand { socket, child: None, own: None }),
                Err(error) if is_unserved(&error) => Self::child(program),
                Err(error) => Err(error),
            },
        }
    }

    fn child(program: &Path) -> io::Result<Hand> {
        let (ours, theirs) = pair()?;
        let mut command = Command::new(program);
        command.arg(ARGUMENT).env_clear().current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        Ok(Hand { socket: ours, child: Some(child), own: None })
    }
}

/// Whether nothing listens on a socket.
fn is_unserved(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// A worker.
#[derive(Debug)]
pub(super) struct Hand {
    socket: OwnedFd,
    /// The process, where it is a child of this one.
    child: Option<Child>,
    /// Its pidfd and its position, once it has said hello.
    own: Option<(OwnedFd, Position)>,
}

/// What came of a question.
pub(super) enum Heard {
    /// A reply.
    Reply(Reply),
    /// It has ended, or can't be talked with.
    Ended(String),
    /// It has not done a step for too long.
    Hangs(Place),
    /// There is no time left.
    Late(Place),
}

impl Hand {
    /// Asks a question, and waits for the reply until a deadline. A worker that is up and does no step
    /// for `hangs` is given up before; its steps are looked at each `look`.
    pub(super) fn ask(
        &mut self,
        request: &Request,
        until: Instant,
        hangs: Duration,
        look: Duration,
    ) -> Heard {
        if let Err(error) = send(&self.socket, request, &[]) {
            return Heard::Ended(error.to_string());
        }
        let (mut place, mut since) = (self.place(), Instant::now());
        loop {
            match self.hear() {
                Ok(Some(reply)) => return Heard::Reply(reply),
                Ok(None) => {}
                Err(error) => return Heard::Ended(error.to_string()),
            }
            let (now, at) = (Instant::now(), self.place());
            if at != place {
                (place, since) = (at, now);
            } else if self.own.is_some() && now.duration_since(since) >= hangs {
                return Heard::Hangs(place);
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Heard::Late(place);
            }
            if let Err(error) = self.poll(left.min(look)) {
                return Heard::Ended(error.to_string());
            }
        }
    }

    /// Waits until it is up.
    pub(super) fn greet(&mut self, until: Instant) -> io::Result<()> {
        while !self.hello()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.poll(left)?;
        }
        Ok(())
    }

    /// Returns when it has said something, or after this time.
    fn poll(&self, time: Duration) -> io::Result<()> {
        let time = Timespec::try_from(time).map_err(|_| ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn place(&self) -> Place {
        self.own.as_ref().map(|(_, position)| position.read()).unwrap_or_default()
    }

    /// Whether it has said hello by now.
    fn hello(&mut self) -> io::Result<bool> {
        if self.own.is_none() {
            let Some((Hello { version }, mut fds)) = self.receive()? else { return Ok(false) };
            let (Some(position), Some(pidfd)) = (fds.pop(), fds.pop()) else {
                return Err(io::Error::other("its first message has no descriptors"));
            };
            self.own = Some((pidfd, Position::from(position)));
            if version != VERSION {
                return Err(io::Error::other("it has another protocol version"));
            }
        }
        Ok(true)
    }

    /// What it has said since the last time; nothing where that is only its hello.
    fn hear(&mut self) -> io::Result<Option<Reply>> {
        if !self.hello()? {
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

    /// Kills it. One that hangs dies when it does not hang any more.
    pub(super) fn kill(&mut self) {
        // That it has ended by itself is as good.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        } else if let Some((pidfd, _)) = &self.own {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Whether it has ended. One that has not even said hello ends by itself when its socket does.
    pub(super) fn is_dead(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            return !matches!(child.try_wait(), Ok(None));
        }
        let Some((pidfd, _)) = &self.own else { return true };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
