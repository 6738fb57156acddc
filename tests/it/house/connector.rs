//! Connections that belong to another process than the test, which may be in other namespaces.
//!
//! The kernel notes which process connects to a socket. So the test binary runs itself again, behind
//! a command that enters the namespaces; that process connects, and passes the connection on. It is
//! there for as long as the test.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    io::{IoSlice, IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::Stdio,
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{
    DEADLINE,
    process::{Process, mortal},
    rival::main_function,
    user::Account,
};

const SOCKET: &str = "VMLOCKD_TEST_CONNECTOR_SOCKET";
/// Room for one descriptor.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(1));

/// A process that has connected to a socket.
pub(crate) struct Connector {
    process: Process,
    /// Its standard input. It ends when this is closed.
    control: UnixStream,
    pid: u32,
}

impl Connector {
    /// Has a process of a user connect to a socket, behind a command that executes its arguments.
    /// Returns the connection, too.
    pub(crate) fn start<S: AsRef<OsStr>>(
        behind: &[S],
        account: Option<Account>,
        socket: &Path,
        log: &Path,
    ) -> (Connector, UnixStream) {
        let started = Connector::try_start(behind, account, socket, log);
        started.unwrap_or_else(|e| {
            panic!("no connection ({e}): {}", fs::read_to_string(log).unwrap_or_default())
        })
    }

    /// The same, where nothing may listen at the socket.
    pub(crate) fn try_start<S: AsRef<OsStr>>(
        behind: &[S],
        account: Option<Account>,
        socket: &Path,
        log: &Path,
    ) -> io::Result<(Connector, UnixStream)> {
        let (control, theirs) = UnixStream::pair().expect("a socket pair");
        control.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        // By a descriptor that it inherits: in another mount namespace this binary has no name.
        let binary = File::open(env::current_exe().expect("this binary has a path"))?;
        fcntl(&binary, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let binary_path = format!("/proc/self/fd/{}", binary.as_raw_fd());
        let mut words = behind.iter().map(AsRef::as_ref).chain([OsStr::new(&binary_path)]);
        let mut command = mortal(account.as_ref(), words.next().expect("a program"));
        command.args(words).args(main_function(concat!(module_path!(), "::connector_main")));
        command.env(SOCKET, socket).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let process = Process::start("connector", command, log);
        let (pid, stream) = receive(&control)?;
        Ok((Connector { process, control, pid }, stream))
    }

    /// Its number in the pid namespace of the test.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Has it end, and waits for that. The connection stays.
    pub(crate) async fn end(self) {
        drop(self.control);
        self.process.ended().await;
    }
}

fn receive(control: &UnixStream) -> io::Result<(u32, UnixStream)> {
    let (mut bytes, mut space) = ([0; 4], [MaybeUninit::uninit(); CONTROL]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(control, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match fds.last() {
        Some(fd) if received == bytes.len() => {
            Ok((u32::from_ne_bytes(bytes), UnixStream::from(fd)))
        }
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[test]
#[ignore = "it is the main function of a process that other tests start"]
fn connector_main() {
    let Some(socket) = env::var_os(SOCKET) else { return };
    let stdin = io::stdin().as_fd().try_clone_to_owned().expect("standard input is open");
    let mut control = UnixStream::from(stdin);
    let stream = UnixStream::connect(socket).expect("the socket is open");
    // The number that it has where /proc is from.
    let own = fs::read_link("/proc/self").expect("/proc is mounted");
    let pid: u32 = own.to_str().and_then(|own| own.parse().ok()).expect("a number");
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [stream.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = pid.to_ne_bytes();
    sendmsg(&control, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty())
        .expect("the test listens");
    drop(stream);
    // Until the test has ended, or wants no more of it.
    let _ = control.read(&mut [0]);
}
