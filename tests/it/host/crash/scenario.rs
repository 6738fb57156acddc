//! A host, disks, an owner that stays, and a process that tries to lock the disks continuously.

use std::collections::HashMap;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tokio::task::yield_now;
use vmlockd::client::ManagerProxy;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::{Connection, OwnedObjectPath};

use super::peer::{By, Peer};
use crate::dbus_client::{lock, manager};
use crate::fixture::{LockProber, LockType, NAME, attempt, within};
use crate::host::soak::failpoints;
use crate::host::soak::process_pool::ProcessPool;
use crate::host::soak::retry::call_until_answered;
use crate::methods::none;
use crate::nspawn::{Host, MainProcess, Tree};
use crate::snapshot::text;

/// Where the lock files are that have hashed names.
const LOCKSPACE: &str = "/srv/locks";

/// Comes back soon, and all that it says is kept.
const UNIT: &str = "[Service]
RestartSec=20ms
RestartSteps=0
LimitCORE=0
LogRateLimitIntervalSec=0
";

/// A place where the service is to abort, and at which time that it comes by.
pub(super) type Point = (&'static str, usize);

/// The holder of the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Source,
    Target,
    /// No owner holds them.
    Nobodys,
}

pub(super) struct Scenario {
    pub(super) bus: Connection,
    pub(super) manager: ManagerProxy<'static>,
    dbus: DBusProxy<'static>,
    pub(super) process_pool: ProcessPool,
    /// The transferred disks, in this order: two exclusive ones, and one that another owner shares.
    disks: Vec<(String, &'static str)>,
    /// An owner that shares a disk throughout.
    stays: Option<Peer>,
    hashed: bool,
    pub(super) host: Host,
}

impl Scenario {
    /// A host with a service; `unit` is added to its unit.
    pub(super) async fn set_up(hashed: bool, unit: &str) -> Option<Self> {
        let host = Host::boot(Tree::Own).await?;
        host.drop_in("crash", &format!("{UNIT}{unit}{}", failpoints::UNIT)).await;
        failpoints::prepare(&host);
        if hashed {
            std::fs::create_dir(host.at(LOCKSPACE)).unwrap();
            host.configure(&format!("file_lockspace_dir = \"{LOCKSPACE}\"\n"));
        }
        host.enable().await;
        let bus = host.bus().await;
        let disks = [("one.img", "exclusive"), ("both.img", "shared"), ("two.img", "exclusive")];
        let disks = disks.map(|(name, mode)| (spelt(&host, name), mode));
        let mut scenario = Self {
            manager: manager(&bus).await,
            dbus: DBusProxy::new(&bus).await.unwrap(),
            process_pool: ProcessPool::open(&host),
            disks: disks.to_vec(),
            stays: None,
            bus,
            hashed,
            host,
        };
        let stays = Peer::open(&scenario, "stays", By::Process).await;
        scenario.take(&stays, &[(scenario.disks[1].0.clone(), "shared")]).await;
        scenario.stays = Some(stays);
        Some(scenario)
    }

    /// Another disk.
    pub(super) fn disk(&self, name: &str) -> String {
        spelt(&self.host, name)
    }

    /// Acquires disks for a side.
    pub(super) async fn take(&self, side: &Peer, disks: &[(String, &str)]) -> Vec<PathBuf> {
        let words: Vec<_> = disks.iter().map(|(disk, mode)| (disk.as_str(), *mode)).collect();
        let locks = side.owner.acquire(&words, none()).await.unwrap();
        let mut files = Vec::new();
        for path in &locks {
            files.push(self.host.at(lock(&self.bus, path).await.lock_file().await.unwrap()));
        }
        files
    }

    /// A machine that has the disks; and where their bytes are.
    pub(super) async fn source(&self, by: By) -> (Peer, Vec<PathBuf>) {
        let source = Peer::open(self, "source", by).await;
        let files = self.take(&source, &self.disks).await;
        (source, files)
    }

    pub(super) fn lock_prober(&self, files: &[PathBuf]) -> LockProber {
        LockProber::at(files, &self.host.log())
    }

    /// Returns the transferred disks by their current holders, without the owner that stays.
    async fn held(&self) -> HashMap<OwnedObjectPath, Vec<(String, String)>> {
        let rows =
            call_until_answered("ListLocks", || self.manager.list_locks(HashMap::new())).await;
        let mut of: HashMap<OwnedObjectPath, Vec<(String, String)>> = HashMap::new();
        for row in &rows {
            let owner = row["owner"].try_clone().unwrap().try_into().unwrap();
            let what = (text(row, "resource"), text(row, "mode"));
            if self.passing().contains(&what) {
                of.entry(owner).or_default().push(what);
            }
        }
        let stays = self.stays.as_ref().expect("somebody stays").path();
        of.remove(&stays).expect("who stays has what he has");
        for held in of.values_mut() {
            held.sort();
        }
        of
    }

    /// Returns the listed holder of the disks. Panics if there are several, or if one does not hold
    /// all of them, or holds them in other modes.
    pub(super) async fn whose(&self, source: &Peer, target: Option<&Peer>) -> Holder {
        let mut of = self.held().await;
        let mut all = self.passing();
        all.sort();
        let (s, t) = (of.remove(&source.path()), target.and_then(|side| of.remove(&side.path())));
        assert!(of.is_empty(), "others have some of it: {of:?}");
        match (s, t) {
            (None, None) => Holder::Nobodys,
            (Some(held), None) if held == all => Holder::Source,
            (None, Some(held)) if held == all => Holder::Target,
            (s, t) => panic!("the source has {s:?}, the target {t:?}"),
        }
    }

    /// Returns the transferred disks as they are listed.
    pub(super) fn passing(&self) -> Vec<(String, String)> {
        self.disks.iter().map(|(disk, mode)| (disk.clone(), (*mode).to_owned())).collect()
    }

    /// Returns the holder of the disks when nothing is pending; both sides agree.
    pub(super) async fn settled(&self, source: &Peer, target: Option<&Peer>) -> Holder {
        let whose = self.whose(source, target).await;
        let told = self.state_of(source).await;
        let expected = match whose {
            Holder::Source => ("running".to_owned(), Vec::new()),
            Holder::Target | Holder::Nobodys => ("suspended".to_owned(), self.passing()),
        };
        assert_eq!(told, expected, "of the source, when it is {whose:?}");
        if let Some(target) = target {
            assert_eq!(self.state_of(target).await, ("running".to_owned(), Vec::new()));
        }
        whose
    }

    async fn state_of(&self, side: &Peer) -> (String, Vec<(String, String)>) {
        (side.state().await, side.remembers().await)
    }

    /// Waits until the source has the disks again. The service may not have heard yet that who had
    /// them has died; but they have them one after the other.
    pub(super) async fn back(&self, source: &Peer) {
        let back = async {
            loop {
                let of = self.held().await;
                assert!(of.len() <= 1, "several have some of it: {of:?}");
                if of.contains_key(&source.path()) && source.state().await == "running" {
                    return;
                }
                yield_now().await;
            }
        };
        within("the source has the disks again", back).await;
        assert_eq!(self.settled(source, None).await, Holder::Source);
    }

    /// Waits until `wanted` owners are left, including the one that stays.
    pub(super) async fn owners(&self, wanted: usize) {
        let left = async {
            while call_until_answered("ListOwners", || self.manager.list_owners(HashMap::new()))
                .await
                .len()
                != wanted
            {
                yield_now().await;
            }
        };
        within(&format!("{wanted} owners"), left).await;
    }

    /// Waits until the disks are free, and `left` lock files remain.
    pub(super) async fn free(&self, disks: &[&str], left: usize) {
        let free = async {
            for disk in disks {
                while attempt(&self.host.at(disk), LockType::Ofd).is_err() {
                    yield_now().await;
                }
            }
            if self.hashed {
                let files = || std::fs::read_dir(self.host.at(LOCKSPACE)).unwrap().count();
                while files() != left {
                    yield_now().await;
                }
            }
        };
        within(&format!("{disks:?} free, and their lock files gone"), free).await;
    }

    /// The disks that one side has alone.
    pub(super) fn alone(&self) -> [&str; 2] {
        [&self.disks[0].0, &self.disks[2].0]
    }

    /// The service that has its name, and will abort or will not.
    async fn service(&self, armed: bool) -> MainProcess {
        let found = async {
            loop {
                let name = BusName::try_from(NAME).unwrap();
                let pid = self.dbus.get_connection_unix_process_id(name).await.ok();
                let mut living = self.host.living().into_iter();
                let main = living.find(|main| Some(main.inside) == pid);
                if let Some(main) = main.filter(|main| failpoints::is_armed(*main) == Some(armed)) {
                    return main;
                }
                yield_now().await;
            }
        };
        within("a service", found).await
    }

    /// The service as it is.
    pub(super) async fn main(&self) -> MainProcess {
        self.service(false).await
    }

    /// Kills the service, and has something done while it is dead; returns once another is there.
    pub(super) async fn kill(&self, what: impl Future<Output = ()>) {
        let before = self.main().await;
        before.signal(Signal::SIGKILL);
        what.await;
        let after = async { while self.main().await == before {} };
        within("another service", after).await;
    }

    /// Makes the service abort at a failpoint, and its successor at the next, during `what`.
    /// Failpoints of the restart are armed before. Returns once a service runs.
    pub(super) async fn crash_in(&self, crash: &[Point], what: impl Future<Output = ()>) {
        let aborted = failpoints::aborts(&self.host);
        let (first, next) = crash.split_first().expect("there is a point");
        if let [next] = next {
            failpoints::arm_next(&self.host, next.0, next.1);
        }
        if first.0.starts_with("restore-") {
            what.await;
            self.arm(*first).await;
        } else {
            self.arm(*first).await;
            self.service(true).await;
            self.verified().await;
            what.await;
        }
        self.crashed(crash, aborted).await;
    }

    /// Makes the service abort, for VMs that die while it is down. The order in which it notices
    /// them is random: returns false if it reached the failpoint with none of them.
    pub(super) async fn crash_after(&self, point: Point, die: impl Future<Output = ()>) -> bool {
        let aborted = failpoints::aborts(&self.host);
        self.arm(point).await;
        die.await;
        let over = async {
            while failpoints::aborts(&self.host) == aborted {
                let owners = self.manager.list_owners(HashMap::new()).await;
                // It may be the successor that has answered.
                if owners.is_ok_and(|owners| owners.len() == 1)
                    && failpoints::aborts(&self.host) == aborted
                {
                    let armed = self.service(true).await;
                    failpoints::disarm(&self.host);
                    armed.signal(Signal::SIGKILL);
                    return false;
                }
                yield_now().await;
            }
            true
        };
        let crashed = within(&format!("a crash at {point:?}, or an end"), over).await;
        self.service(false).await;
        crashed
    }

    /// Kills the service; its successor is to abort.
    async fn arm(&self, (point, n): Point) {
        failpoints::arm(&self.host, point, n);
        self.main().await.signal(Signal::SIGKILL);
    }

    /// All that is listed has been looked at, and is there. Where records alone outlive a crash, a
    /// lock that ends before that has no byte to unlock.
    pub(super) async fn verified(&self) {
        let verified = async {
            loop {
                let rows =
                    call_until_answered("ListLocks", || self.manager.list_locks(HashMap::new()))
                        .await;
                if rows.iter().all(|row| bool::try_from(&row["verified"]).unwrap()) {
                    return;
                }
                yield_now().await;
            }
        };
        within("all are verified", verified).await;
    }

    async fn crashed(&self, crash: &[Point], aborted: usize) {
        let crashed = async {
            while failpoints::aborts(&self.host) != aborted + crash.len() {
                yield_now().await;
            }
        };
        within(&format!("crashes at {crash:?}"), crashed).await;
        self.service(false).await;
        assert_eq!(failpoints::aborts(&self.host), aborted + crash.len(), "{crash:?}");
    }

    /// Nothing was lost meanwhile.
    pub(super) async fn lost_nothing(&self) {
        let journal = self.host.journal().await;
        assert!(!journal.contains("LOST"), "a lock was lost");
        assert!(!journal.contains("is damaged"), "a record was not understood");
    }
}

fn spelt(host: &Host, name: &str) -> String {
    host.image(name).to_str().unwrap().to_owned()
}
