//! The service replaces itself by the installed program, which only the log shows; or it continues
//! unchanged.

mod failures;
pub(crate) mod handoff;
mod large;
mod signals;
mod under_load;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use zbus::Connection;
use zbus::names::OwnedUniqueName;

use crate::dbus_client::{Answer, TestVm, call, exclusive, manager, option, owner, shared};
use crate::fixture::{
    Attempts, Daemon, Fixture, ForeignHolder, Launch, LockProber, LockType, NameWatch, Process,
    program, within,
};
use crate::methods::{MANAGER, none};
use crate::refused_requests::assert_free;
use crate::snapshot::Listed;

/// A service that was started from a file of its own, and two machines.
struct Scenario {
    fixture: Fixture,
    daemon: Daemon,
    bus: Connection,
    watch: NameWatch,
    /// Lives by a lifeline.
    web1: TestVm,
    /// Lives by a process.
    web2: Process,
    disks: Vec<PathBuf>,
    before: Listed,
    descriptors: usize,
    lock_prober: LockProber,
}

impl Scenario {
    async fn set_up() -> Self {
        let fixture = Fixture::builder().without_daemon().start().await;
        let installed = fixture.dir().join("vmlockd");
        fs::copy(program("vmlockd"), &installed).unwrap();
        let launch = Launch { program: installed, ..fixture.launch() };
        let daemon = Daemon::start(fixture.bus(), launch).await;
        let (bus, watch) = (fixture.connection().await, fixture.bus().watch().await);
        let disks = ["own", "both", "other"].map(|name| fixture.raw_of(0, name)).to_vec();
        let why = option("why", "nightly backup");
        let web1 = TestVm::open_with(&bus, "", "web1", why).await.unwrap();
        web1.acquire(&[exclusive(&disks[0]), shared(&disks[1])]).await.unwrap();
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("infinity");
        let web2 = Process::start("web2", sleep, &fixture.dir().join("web2.log"));
        let path = manager(&bus).await.register_owner("", "web2", web2.pid(), none()).await;
        let wanted = [shared(&disks[1]), exclusive(&disks[2])];
        owner(&bus, path.unwrap()).await.acquire(&wanted, none()).await.unwrap();
        let before = Listed::by(&bus).await;
        assert_eq!((before.owners.len(), before.locks.len()), (2, 4));
        let descriptors = daemon.open_fds();
        let lock_prober = LockProber::at(&disks, &fixture.dir().join("prober.log"));
        let mut scenario = Self {
            fixture,
            daemon,
            bus,
            watch,
            web1,
            web2,
            disks,
            before,
            descriptors,
            lock_prober,
        };
        scenario.watch.owned().await;
        scenario
    }

    /// The file that the service was started from.
    fn installed(&self) -> PathBuf {
        self.daemon.launch().program.clone()
    }

    /// Another file takes its place, as package managers do it.
    fn upgrade(&self) {
        let new = self.fixture.dir().join("vmlockd.new");
        fs::copy(program("vmlockd"), &new).unwrap();
        fs::rename(new, self.installed()).unwrap();
    }

    /// Calls `Reexecute()`. The service that replies is the replaced one.
    async fn ask(&self) -> Answer<OwnedUniqueName> {
        let method = (MANAGER, "Reexecute");
        let answer = call(&self.bus, "/org/vmlockd1", method, &(none(),).into()).await?;
        Ok(answer.header().sender().expect("the bus names it").to_owned().into())
    }

    /// Replaces the service; the new program serves when this returns.
    async fn replace(&mut self, asked: bool) {
        self.upgrade();
        let mut first = self.watch.owned().await;
        if asked {
            first = loop {
                match self.ask().await {
                    Ok(name) => break name,
                    // It may be replacing itself already, by an earlier request: it has left the bus,
                    // or leaves it before it reads this call.
                    Err(refused) => assert!(
                        ["DBus.Error.ServiceUnknown", "DBus.Error.NoReply"]
                            .contains(&refused.name.as_str()),
                        "{refused:?}"
                    ),
                }
            };
            // Earlier changes of the name's owner may precede the reply.
            self.watch = self.fixture.bus().watch().await;
        } else {
            self.daemon.signal(Signal::SIGUSR1);
        }
        self.watch.owned_by_other_than(&first).await;
        // A signal of before may have had it replaced first, by what was installed then.
        let installed = fs::metadata(self.installed()).unwrap().ino();
        let runs = || fs::metadata(format!("/proc/{}/exe", self.daemon.pid())).unwrap().ino();
        while runs() != installed {
            let now = self.watch.owned().await;
            self.watch.owned_by_other_than(&now).await;
        }
        self.watch.owned_by(self.daemon.pid()).await;
    }

    /// Owners and locks are as they were, and so is what is open.
    async fn compare(&self) {
        assert_eq!(Listed::by(&self.bus).await, self.before);
        let settled = async {
            while self.daemon.open_fds() > self.descriptors {
                Listed::by(&self.bus).await;
            }
        };
        let settled = tokio::time::timeout(crate::fixture::DEADLINE, settled).await;
        let open = self.daemon.fd_targets();
        assert!(settled.is_ok(), "not {} descriptors: {open:#?}", self.descriptors);
    }

    /// It says this in its log, sooner or later.
    async fn says(&self, words: &str) {
        let said = async {
            while !self.daemon.stderr().contains(words) {
                // As long as the bus takes for an answer.
                drop(self.fixture.connection().await);
            }
        };
        within(words, said).await;
    }

    /// It can give and take a disk.
    async fn serves(&self) {
        let disk = self.fixture.dir().join("served");
        if !disk.exists() {
            self.fixture.raw_of(0, "served");
        }
        let machine = TestVm::open(&self.bus, "other").await;
        machine.acquire(&[exclusive(&disk)]).await.unwrap();
        for disk in &self.disks {
            assert_eq!(machine.acquire(&[exclusive(disk)]).await.unwrap_err().name, "LockHeld");
        }
        machine.owner.close(none()).await.unwrap();
        assert_free(&disk);
    }

    /// The machines end, and all is free.
    async fn end(self) -> Attempts {
        let attempts = self.lock_prober.stop();
        assert!(attempts.news.is_empty(), "{attempts:#?}");
        drop((self.web1, self.web2));
        let gone = async { while !Listed::by(&self.bus).await.owners.is_empty() {} };
        within("the machines' end", gone).await;
        // An ended owner is no longer listed, and its locks are released one after the other.
        let free = async {
            for disk in &self.disks {
                while ForeignHolder::try_once(disk, LockType::Ofd, true).is_err() {
                    tokio::task::yield_now().await;
                }
            }
        };
        within("free disks", free).await;
        attempts
    }
}

async fn everything_stays(asked: bool) {
    let mut scenario = Scenario::set_up().await;
    for _ in 0..2 {
        scenario.replace(asked).await;
        scenario.compare().await;
        scenario.serves().await;
    }
    scenario.end().await.were_refused();
}

#[tokio::test]
async fn everything_stays_at_sigusr1() {
    everything_stays(false).await;
}

#[tokio::test]
async fn everything_stays_when_asked_to() {
    everything_stays(true).await;
}
