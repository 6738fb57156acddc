//! Between the two programs there is a time without either. Here it lasts as long as a test wants.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Scenario;
use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::user::{ROOT, in_thread};
use crate::fixture::{Daemon, Launch, LockProber, program, within};
use crate::methods::none;
use crate::nspawn::{Host, Tree};
use crate::refused_requests::assert_refused;
use crate::snapshot::Listed;

/// Takes a program's place: answers its questions with it, and becomes it once it is let.
pub(crate) fn put_in_between(installed: &Path, real: &str, gate: &str) {
    let text = format!(
        "#!/bin/sh\ncase $1 in --check-*) exec {real} \"$@\" ;; esac\nread -r _ <{gate}\nexec {real} \"$@\"\n"
    );
    fs::remove_file(installed).unwrap();
    fs::write(installed, text).unwrap();
    fs::set_permissions(installed, Permissions::from_mode(0o755)).unwrap();
}

/// Waits until a process waits at the gate.
pub(crate) async fn reached(gate: PathBuf) -> File {
    let opened = in_thread(ROOT, move || File::options().write(true).open(gate));
    within("it is in between", opened).await.unwrap()
}

#[tokio::test]
async fn a_second_one_finds_it_running_and_changes_nothing() {
    let mut scenario = Scenario::set_up().await;
    let gate = scenario.fixture.dir().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let real = program("vmlockd");
    put_in_between(&scenario.installed(), real.to_str().unwrap(), gate.to_str().unwrap());
    let first = scenario.watch.owned().await;
    scenario.daemon.signal(Signal::SIGUSR1);
    let mut gate = reached(gate).await;
    scenario.watch.free().await;

    let directory = scenario.daemon.launch().runtime_dir.clone();
    let there = || ["state", "lock"].map(|name| fs::read(directory.join(name)).unwrap());
    let before = there();
    let log = scenario.fixture.dir().join("second.log");
    let launch = Launch { program: real, log, ..scenario.daemon.launch().clone() };
    let refused = Daemon::try_start(scenario.fixture.bus(), launch).await.err().unwrap();
    let words = format!("already running, pid {}", scenario.daemon.pid());
    assert!(refused.stderr.contains(&words), "{}: {}", refused.status, refused.stderr);
    assert!(!refused.status.success());
    assert_eq!(there(), before);

    gate.write_all(b"\n").unwrap();
    scenario.watch.owned_by_other_than(&first).await;
    scenario.watch.owned_by(scenario.daemon.pid()).await;
    scenario.compare().await;
    scenario.serves().await;
    scenario.end().await.were_refused();
}

/// A host with systemd.
mod host {
    use super::*;

    /// The bus keeps a call until the name is taken again, as it does for a service that it has started.
    #[tokio::test]
    async fn a_call_is_answered_by_the_successor() {
        const INSTALLED: &str = "/usr/sbin/vmlockd";
        const GATE: &str = "/run/vmlockd/gate";
        let Some(host) = Host::boot(Tree::Own).await else { return };
        let main = host.enable().await;
        let (mut watch, bus) = (host.watch().await, host.bus().await);
        let disk = host.image("disk");
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let lock_prober = LockProber::at(&[host.at(&disk)], &host.log());
        let real = format!("{INSTALLED}.real");
        fs::copy(host.at(INSTALLED), host.at(&real)).unwrap();
        mkfifo(&host.at(GATE), Mode::S_IRWXU).unwrap();
        put_in_between(&host.at(INSTALLED), &real, GATE);
        main.signal(Signal::SIGUSR1);
        let mut gate = reached(host.at(GATE)).await;
        watch.free().await;

        let manager = manager(&bus).await;
        let let_go = async {
            // All earlier messages have reached the bus once it answers this call.
            let bus = zbus::fdo::DBusProxy::new(&bus).await.unwrap();
            bus.get_id().await.unwrap();
            gate.write_all(b"\n").unwrap();
        };
        let (called, ()) = tokio::join!(manager.list_locks(none()), let_go);
        assert_eq!(called.unwrap().len(), 1);
        watch.owned_by(main.inside).await;
        assert_eq!(host.main().await, main);
        lock_prober.stop().were_refused();
    }

    /// Where systemd keeps nothing, that is said, and not only once.
    #[tokio::test]
    async fn nothing_is_kept() {
        let Some(host) = Host::boot(Tree::Own).await else { return };
        host.drop_in("store", "[Service]\nFileDescriptorStoreMax=0\n").await;
        let main = host.enable().await;
        let (mut watch, bus) = (host.watch().await, host.bus().await);
        let disk = host.image("disk");
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let before = Listed::by(&bus).await;
        let lock_prober = LockProber::at(&[host.at(&disk)], &host.log());
        let warned = async || host.journal().await.matches("will not survive a crash").count();
        assert_eq!(warned().await, 1);

        let first = watch.owned().await;
        main.signal(Signal::SIGUSR1);
        watch.owned_by_other_than(&first).await;
        watch.owned_by(main.inside).await;
        let features = manager(&bus).await.features().await.unwrap();
        assert!(!features.iter().any(|feature| feature == "fd-store"), "{features:?}");
        let again = async { while warned().await < 2 {} };
        within("a second warning", again).await;
        assert_eq!(Listed::by(&bus).await, before);
        let other = TestVm::open(&bus, "other").await;
        assert_refused(&other.acquire(&[exclusive(&disk)]).await.unwrap_err(), "LockHeld", "web1");
        lock_prober.stop().were_refused();
    }
}
