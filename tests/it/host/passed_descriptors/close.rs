//! Descriptors whose close hangs delay only the user that passes them, and are bounded.

use std::fs::{self, DirEntry, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use zbus::fdo::DBusProxy;
use zbus::{Fd, Message};

use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::user::{DAEMON, NOBODY};
use crate::fixture::{Answer, Broker, Fixture, HangingClose, NAME, polkit, within};
use crate::methods::none;
use crate::nspawn::skip;
use crate::owners::releases;
use crate::refused_requests::assert_refused;

/// How many descriptors a message has at most on most buses.
const MESSAGE: usize = 16;
/// How many descriptors of one user may hang or wait to be closed.
const LIMIT: usize = 512;

/// Passes as many descriptors as one call may bring, in a call that does nothing with them.
/// Returns whether the call is refused because too many are not closed yet.
async fn is_over_limit(machine: &TestVm, file: &File) -> bool {
    let files: Vec<File> = (0..MESSAGE).map(|_| file.try_clone().unwrap()).collect();
    let files: Vec<(&dyn crate::dbus_client::AsFdDyn, &str)> =
        files.iter().map(|file| (file as _, "nonsense")).collect();
    let refused = within("an answer", machine.acquire_files(&files)).await.unwrap_err();
    let words = format!(
        "too many descriptors that are not closed yet: the limit is {LIMIT} for uid {NOBODY}"
    );
    if refused.name == "DBus.Error.InvalidArgs" {
        return false;
    }
    assert_refused(&refused, "DBus.Error.LimitsExceeded", &words);
    true
}

/// Passes sockets whose last close blocks until their peers are closed, which are returned. All other
/// copies are closed before the service reads the calls.
async fn pass_last_copies(fixture: &Fixture, machine: &TestVm) -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bus = DBusProxy::new(machine.owner.inner().connection()).await.unwrap();
    fixture.daemon().signal(Signal::SIGSTOP);
    let mut peers = Vec::new();
    for _ in 0..3 {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peers.push(listener.accept().unwrap().0);
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 600 };
        setsockopt(&stream, sockopt::Linger, &linger).unwrap();
        stream.set_nonblocking(true).unwrap();
        while (&stream).write(&[0; 1 << 14]).is_ok() {}
        let file = (Fd::from(OwnedFd::from(stream)), "nonsense");
        let call = Message::method_call(machine.path(), "AcquireWithFiles");
        let call = call.interface("org.vmlockd1.Owner").destination(NAME);
        let names: &[(&str, &str)] = &[];
        let call = call.build(&(names, &[file][..], none())).unwrap();
        machine.owner.inner().connection().send(&call).await.unwrap();
    }
    // The bus has passed them on, and closes its own copies.
    for _ in 0..3 {
        bus.get_id().await.unwrap();
    }
    fixture.daemon().signal(Signal::SIGCONT);
    let tasks = format!("/proc/{}/task", fixture.daemon().pid());
    let discard = |task: &DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "discard\n")
    };
    // Each occupies a thread.
    let threads = || fs::read_dir(&tasks).unwrap().flatten().filter(discard).count();
    while threads() < peers.len() {
        tokio::task::yield_now().await;
    }
    peers
}

#[tokio::test]
async fn descriptors_whose_close_hangs_delay_no_other_user_and_are_bounded() {
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        hanging_descriptors_are_bounded(broker).await;
    }
}

async fn hanging_descriptors_are_bounded(broker: Broker) {
    if !Path::new("/dev/fuse").exists() {
        return skip("there is no /dev/fuse here").unwrap_or_default();
    }
    let fixture = Fixture::builder().broker(broker).polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let daemon = fixture.daemon();
    let server = HangingClose::start(&fixture.dir().join("hanging"), daemon.pid()).await;
    let (root, user) = (fixture.connection().await, fixture.connection_as(NOBODY).await);
    let other = manager(&fixture.connection_as(DAEMON).await).await;
    let (disk, mine) = (fixture.raw_of(0, "disk"), fixture.raw_of(NOBODY, "mine"));
    let (web1, hostile) = (TestVm::open(&root, "web1").await, TestVm::open(&user, "web2").await);
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let before = daemon.open_fds();

    let hanging = server.disk().unwrap();
    let mut passed = 0;
    while !is_over_limit(&hostile, &hanging).await {
        passed += MESSAGE;
        assert!(passed <= LIMIT, "no limit at {passed} descriptors");
    }
    assert!(passed > LIMIT - MESSAGE, "refused after {passed} descriptors");
    // The number of descriptors with refused calls is bounded, too.
    for _ in 0..2 * LIMIT / MESSAGE {
        assert!(is_over_limit(&hostile, &hanging).await);
    }
    assert!(daemon.open_fds() < before + LIMIT + 2 * MESSAGE, "{} are open", daemon.open_fds());

    let mut peers = Vec::new();
    if broker == Broker::DbusDaemon {
        // dbus-broker may be the one that closes the last copy.
        peers = within("sockets that linger", pass_last_copies(&fixture, &hostile)).await;
    }

    let words = format!("refusing calls with descriptors from uid {NOBODY}: too many descriptors");
    let log = daemon.complete_log().await;
    assert_eq!(log.matches(&words).count(), 1, "{log}");

    // The user is served, but for its descriptors.
    let mine = [exclusive(&mine)];
    let locks = within("a call without descriptors", hostile.acquire(&mine)).await.unwrap();
    hostile.release(&locks).await.unwrap();
    // All others are served, and their descriptors are closed.
    let observer = manager(&root).await;
    let mut released = releases(&observer).await;
    drop(web1);
    assert_eq!(released().await, "owner-gone");
    let web3 = TestVm::open(&root, "web3").await;
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    within("root's descriptor", web3.acquire_files(&[(&file, "exclusive")])).await.unwrap();
    let (theirs, ours) = tokio::net::unix::pipe::pipe().unwrap();
    let asked = other.find_holders_of_file(Fd::from(&file), none());
    assert_eq!(within("another user's descriptor", asked).await.unwrap().len(), 1);
    let asked = other.find_holders_of_file(Fd::from(&theirs), none());
    within("another user's pipe", asked).await.unwrap_err();
    drop(theirs);
    within("the pipe is closed", ours.readable()).await.unwrap();
    assert_eq!(ours.try_read(&mut [0]).unwrap(), 0);

    server.kill();
    drop((web3, hanging, peers));
    let closed = async {
        while daemon.open_fds() > before || is_over_limit(&hostile, &file).await {
            tokio::task::yield_now().await;
        }
    };
    within("all is closed", closed).await;
}

#[tokio::test]
async fn a_service_with_a_close_that_hangs_is_not_replaced_and_goes_on() {
    if !Path::new("/dev/fuse").exists() {
        return skip("there is no /dev/fuse here").unwrap_or_default();
    }
    let fixture = Fixture::builder().start().await;
    let server = HangingClose::start(&fixture.dir().join("hanging"), fixture.daemon().pid()).await;
    let (root, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let user = manager(&fixture.connection_as(NOBODY).await).await;
    let hanging = server.disk().unwrap();
    user.find_holders_of_file(Fd::from(&hanging), none()).await.unwrap();
    let manager = manager(&root).await;
    let refused = within("an answer", manager.reexecute(none())).await.unwrap_err().to_string();
    assert!(refused.contains("a file system request hangs"), "{refused}");
    let web1 = TestVm::open(&root, "web1").await;
    within("a lock", web1.acquire(&[exclusive(&disk)])).await.unwrap();
    // Its program is replaced once nothing hangs.
    server.kill();
    let before = fixture.bus().watch().await.owned().await;
    within("an answer", manager.reexecute(none())).await.unwrap();
    let replaced = async { while fixture.bus().watch().await.owned().await == before {} };
    within("the program is replaced", replaced).await;
}
