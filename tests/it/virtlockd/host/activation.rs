//! Socket activation: each client is served, by a service that is started if necessary, and none is
//! rejected.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::fixture::rpc::{Answer, Rpc};
use crate::fixture::{gone, pidfd, within};
use crate::nspawn::{Host, MainProcess, Tree};
use crate::reexec::handoff::{put_in_between, reached};

use super::super::guest::Guest;

const UNIT: &str = "vmlockd-virtlockd.socket";
const SOCKET: &str = "/run/libvirt/virtlockd-sock";

/// A host where systemd listens, and nothing else has been started.
struct Scenario {
    host: Host,
    /// The socket, as this process finds it.
    socket: PathBuf,
}

impl Scenario {
    async fn set_up() -> Option<Scenario> {
        let host = Host::boot(Tree::Own).await?;
        host.systemctl(&["enable", "--quiet", "--now", UNIT]).await;
        let socket = host.at(SOCKET);
        assert!(host.living().is_empty(), "it was started for nobody");
        Some(Scenario { host, socket })
    }

    /// Boots a host whose service has served a client, and returns the service.
    async fn set_serving() -> Option<(Scenario, MainProcess)> {
        let scenario = Scenario::set_up().await?;
        scenario.ask().await;
        let main = scenario.host.main().await;
        Some((scenario, main))
    }

    /// Connects, and waits for a reply.
    async fn ask(&self) {
        let socket = self.socket.clone();
        let answer = spawn_blocking(move || Rpc::connect(&socket).unwrap().ping());
        answer.await.unwrap().granted();
    }

    /// Which socket it is.
    fn number(&self) -> u64 {
        fs::metadata(&self.socket).unwrap().ino()
    }

    fn is_for_root_alone(&self) {
        let mode = fs::metadata(&self.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "mode {mode:o}");
    }
}

/// Clients that come one after the other, several at a time, as long as it is wanted.
struct ClientLoad {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    answered: mpsc::UnboundedReceiver<()>,
}

impl ClientLoad {
    const SIZE: usize = 4;

    async fn at(socket: &Path) -> ClientLoad {
        let enough = Arc::new(AtomicBool::new(false));
        let (answer, answered) = mpsc::unbounded_channel();
        let client = |_| {
            let (socket, enough, answer) = (socket.to_owned(), enough.clone(), answer.clone());
            thread::spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    let mut client = Rpc::connect(&socket).expect("nobody is turned away");
                    match client.ping() {
                        Answer::Granted => drop(answer.send(())),
                        // By a service that ended before it had read what was said.
                        Answer::Closed => {}
                        refused @ Answer::Refused(_) => panic!("{refused:?}"),
                    }
                }
            })
        };
        let threads = (0..Self::SIZE).map(client).collect();
        let mut crowd = ClientLoad { enough, threads, answered };
        crowd.is_answered().await;
        crowd
    }

    /// Waits until many have been answered from now on.
    async fn is_answered(&mut self) {
        while self.answered.try_recv().is_ok() {}
        for _ in 0..Self::SIZE * 8 {
            within("an answer", self.answered.recv()).await.expect("the crowd is there");
        }
    }

    async fn leave(self) {
        self.enough.store(true, Ordering::Relaxed);
        let left = spawn_blocking(|| self.threads.into_iter().map(JoinHandle::join).collect());
        let left: Vec<_> = within("the crowd leaves", left).await.unwrap();
        for outcome in left {
            outcome.unwrap();
        }
    }
}

#[tokio::test]
async fn the_first_client_starts_the_service() {
    let Some(scenario) = Scenario::set_up().await else { return };
    scenario.is_for_root_alone();
    let mut guest = Guest::inside(&scenario.host, Path::new(SOCKET)).await;
    guest.come_up("web1", 1).await;
    let main = scenario.host.main().await;
    // It does the rest, too.
    let path = scenario.host.image("disk.img");
    let disk = path.to_str().unwrap();
    let mut libvirtd = Guest::inside(&scenario.host, Path::new(SOCKET)).await;
    libvirtd.register(&guest.owner("web1", 1)).await.granted();
    libvirtd.acquire(disk, 0).await.granted();
    scenario.host.watch().await.owned_by(main.inside).await;
    let list = scenario.host.json(&["vmlockctl", "--json", "list"]).await;
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
}

/// One that was stopped as well as one that was never started.
#[tokio::test]
async fn a_client_starts_a_service_that_was_stopped() {
    let Some((scenario, first)) = Scenario::set_serving().await else { return };
    let number = scenario.number();
    scenario.host.systemctl(&["stop", "vmlockd.service"]).await;
    assert!(scenario.host.living().is_empty());
    scenario.ask().await;
    assert_ne!(scenario.host.main().await, first);
    assert_eq!(scenario.number(), number);
    scenario.is_for_root_alone();
}

#[tokio::test]
async fn a_client_after_a_kill_is_served_by_the_next() {
    let Some((scenario, mut main)) = Scenario::set_serving().await else { return };
    let number = scenario.number();
    for _ in 0..2 {
        let ended = pidfd(main.outside);
        main.signal(Signal::SIGKILL);
        within("its end", gone(ended)).await;
        scenario.ask().await;
        let next = scenario.host.main().await;
        assert_ne!(next, main);
        main = next;
    }
    assert_eq!(scenario.number(), number);
    scenario.is_for_root_alone();
}

#[tokio::test]
async fn no_connection_is_refused_during_restarts() {
    let Some((scenario, mut main)) = Scenario::set_serving().await else { return };
    let number = scenario.number();
    let mut crowd = ClientLoad::at(&scenario.socket).await;
    for _ in 0..3 {
        scenario.host.systemctl(&["restart", "vmlockd.service"]).await;
        crowd.is_answered().await;
        let next = scenario.host.main().await;
        assert_ne!(next, main);
        main = next;
    }
    crowd.leave().await;
    assert_eq!(scenario.number(), number);
    scenario.is_for_root_alone();
}

#[tokio::test]
async fn no_connection_is_refused_during_reexec() {
    let Some((scenario, main)) = Scenario::set_serving().await else { return };
    let number = scenario.number();
    let mut crowd = ClientLoad::at(&scenario.socket).await;
    let mut watch = scenario.host.watch().await;
    for _ in 0..3 {
        let before = watch.owned().await;
        main.signal(Signal::SIGUSR1);
        watch.owned_by_other_than(&before).await;
        crowd.is_answered().await;
        assert_eq!(scenario.host.main().await, main);
    }
    crowd.leave().await;
    assert_eq!(scenario.number(), number);
    scenario.is_for_root_alone();
}

/// When there is no program that could answer, what is asked waits for the next.
#[tokio::test]
async fn a_connection_between_two_programs_is_served_by_the_successor() {
    const INSTALLED: &str = "/usr/sbin/vmlockd";
    const GATE: &str = "/run/vmlockd/gate";
    let Some((scenario, main)) = Scenario::set_serving().await else { return };
    let (host, mut watch) = (&scenario.host, scenario.host.watch().await);
    let real = format!("{INSTALLED}.real");
    fs::copy(host.at(INSTALLED), host.at(&real)).unwrap();
    mkfifo(&host.at(GATE), Mode::S_IRWXU).unwrap();
    put_in_between(&host.at(INSTALLED), &real, GATE);
    main.signal(Signal::SIGUSR1);
    let mut gate = reached(host.at(GATE)).await;
    watch.free().await;

    let mut early = Rpc::connect(&scenario.socket).unwrap();
    let late = Rpc::connect(&scenario.socket).unwrap();
    let asked = spawn_blocking(move || early.ping());
    std::io::Write::write_all(&mut gate, b"\n").unwrap();
    asked.await.unwrap().granted();
    let mut late = late;
    late.ping().granted();
    watch.owned_by(main.inside).await;
    assert_eq!(host.main().await, main);
    scenario.ask().await;
}
