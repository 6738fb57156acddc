use super::*;
use std::fs;
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};

/// A socket whose close blocks until its peer is closed.
fn lingering(listener: &TcpListener) -> (OwnedFd, TcpStream) {
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let linger = Some(std::time::Duration::from_secs(60));
    rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
    stream.set_nonblocking(true).unwrap();
    while io::Write::write(&mut &stream, &[0; 1 << 14]).is_ok() {}
    (OwnedFd::from(stream), peer)
}

/// Closes the write end of a pipe for `user`, and waits until it is closed.
fn assert_closed(user: User) {
    let (mut ours, theirs) = io::pipe().unwrap();
    close(theirs.into(), user);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn descriptors_that_block_delay_only_their_user_and_count_against_it() {
    const HOSTILE: User = Some(7001);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (per_user, _) = limits();
    let (sockets, peers): (Vec<_>, Vec<_>) = (0..40).map(|_| lingering(&listener)).unzip();
    assert_eq!(check(HOSTILE, 1), Ok(()));
    for socket in sockets {
        close(socket, HOSTILE);
    }
    // A local file of the same user is closed all the same, and its lock is unlocked.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("disk");
    let file = fs::File::create(&path).unwrap();
    file.lock().unwrap();
    close(file.into(), HOSTILE);
    fs::File::open(&path).unwrap().lock().unwrap();
    for user in [None, Some(0), Some(7002)] {
        assert_closed(user);
    }
    assert!(!drain(Duration::ZERO));
    let backlog_is = |closing: usize, len: usize| {
        let state = CLOSER.state();
        let backlog = &state.users[&HOSTILE];
        (backlog.closing, backlog.len()) == (closing, len)
    };
    // The file counts until its thread has returned from closing it.
    while !backlog_is(THREADS - 1, 40) {
        std::thread::yield_now();
    }
    let fits = per_user - 40;
    assert_eq!(check(HOSTILE, fits), Ok(()));
    let excess = Err(Excess { limit: per_user, in_all: false });
    assert_eq!(check(HOSTILE, fits + 1), excess);
    assert_eq!(check(Some(7002), fits + 1), Ok(()));
    assert_eq!(check(Some(0), usize::MAX), Ok(()));
    drop(peers);
    assert_closed(HOSTILE);
    assert!(drain(Duration::from_secs(60)));
    assert_eq!(check(HOSTILE, per_user), Ok(()));
}
