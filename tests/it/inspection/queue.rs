//! Questions that wait for an inspector keep no thread from requests of other users.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zbus::Fd;

use crate::dbus_client::{AsFdDyn, TestVm, manager};
use crate::fixture::user::{DAEMON, GAMES, NOBODY};
use crate::fixture::{Daemon, Fixture, polkit, within};
use crate::methods::none;

/// Ordinary users.
const USERS: [u32; 3] = [DAEMON, GAMES, NOBODY];
/// How many calls one user makes at a time: together more than the service has threads.
const CALLS: usize = 60;
/// How many threads the service has.
const THREADS: usize = 128;

fn children(pid: u32) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let lists: Vec<String> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    pids.map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

#[tokio::test]
async fn inspections_for_some_users_delay_no_request_of_others() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).without_daemon().start().await;
    let path = fixture.dir().join("inspector");
    let mut launch = fixture.launch();
    launch.args.extend(["--inspector-socket".to_owned(), path.display().to_string()]);
    let daemon = Daemon::start(fixture.bus(), launch).await;
    // From now on there is an inspector only that never answers.
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&socket, 128).unwrap();
    for child in children(daemon.pid()) {
        kill(child, Signal::SIGKILL).unwrap();
    }
    // Ends with this process.
    let (sender, mut asked) = mpsc::unbounded_channel();
    thread::spawn(move || while accept(&socket).is_ok_and(|worker| sender.send(worker).is_ok()) {});
    let (root, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    let web1 = TestVm::open(&root, "web1").await;
    // Its own file is in use by this process, so that there is something to ask.
    let mine = File::options().read(true).write(true).open(fixture.raw_of(NOBODY, "mine")).unwrap();

    let (answered, mut questions) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for user in USERS {
        let caller = manager(&fixture.connection_as(user).await).await;
        for _ in 0..CALLS {
            let (caller, file) = (caller.clone(), mine.try_clone().unwrap());
            let answered = Arc::clone(&answered);
            questions.spawn(async move {
                let _ = caller.find_holders_of_file(Fd::from(&file), none()).await;
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    let mut open = Vec::new();
    for _ in USERS {
        open.push(within("a question", asked.recv()).await);
    }
    for _ in 0..20 {
        let wanted: [(&dyn AsFdDyn, &str); 1] = [(&file, "exclusive")];
        let locks = within("a lock", web1.acquire_files(&wanted)).await.unwrap();
        within("its release", web1.release(&locks)).await.unwrap();
    }
    // All but a few that are refused wait for the inspector, each until the end of its time.
    let waiting = USERS.len() * CALLS - answered.load(Ordering::Relaxed);
    assert!(waiting > THREADS, "root has waited for questions of others: {waiting} are left");
    drop((daemon, open));
}
