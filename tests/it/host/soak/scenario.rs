//! Where it happens: a host, disks on a file system of their own, and what is known of all this.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};

use tokio::task::yield_now;
use tokio::time::timeout;

use super::acknowledged::AcknowledgedLocks;
use super::process_pool::ProcessPool;
use super::statistics::Statistics;
use crate::fixture::DEADLINE;
use crate::fixture::rng::{Rng, seed};
use crate::nspawn::{Host, MainProcess, Tree};

/// Where the disks are that come and go.
pub(super) const CHURN: &str = "/srv/churn";
/// How many disks each client has to itself.
const DISKS: usize = 5;

/// Comes back soon, yet not at once; what it says of its end is not thrown away.
const DROP_IN: &str = "[Service]
RestartSec=20ms
RestartSteps=0
LimitCORE=0
LogRateLimitIntervalSec=0
";

pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) acknowledged: RefCell<AcknowledgedLocks>,
    pub(super) statistics: Statistics,
    pub(super) process_pool: ProcessPool,
    over: Cell<bool>,
    /// The descriptors of the service that holds nothing.
    idle: Vec<String>,
    pub(super) host: Host,
}

/// Returns the link targets of the descriptors of a process (`proc_pid_fd(5)`).
pub(super) fn descriptors(main: MainProcess) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", main.outside)).expect("the service runs");
    let targets = entries.flatten().flat_map(|entry| fs::read_link(entry.path()));
    targets.map(|target| target.to_string_lossy().into_owned()).collect()
}

impl Scenario {
    /// Boots a host with an idle service; `unit` is added to its unit.
    pub(super) async fn set_up(unit: &str, clients: u64) -> Option<Self> {
        let host = Host::boot(Tree::Own).await?;
        let seed = seed("VMLOCKD_SOAK_SEED");
        println!("VMLOCKD_SOAK_SEED={seed}");
        host.drop_in("soak", &format!("{DROP_IN}{unit}")).await;
        host.configure("log_level = \"warning\"\n");
        fs::create_dir(host.at(CHURN)).unwrap();
        host.run(&["mount", "-t", "tmpfs", "churn", CHURN]).await.ok();
        let own = (0..clients).flat_map(Self::own);
        for disk in own.chain(Self::for_all()) {
            File::create_new(host.at(disk)).unwrap().set_len(1 << 20).unwrap();
        }
        let idle = descriptors(host.enable().await);
        let process_pool = ProcessPool::open(&host);
        let (acknowledged, statistics, over) = Default::default();
        Some(Self { seed, acknowledged, statistics, process_pool, over, idle, host })
    }

    /// The disks that a client has to itself.
    pub(super) fn own(client: u64) -> Vec<String> {
        (0..DISKS).map(|disk| format!("{CHURN}/{client}-{disk}.img")).collect()
    }

    /// The disks that all clients ask for.
    pub(super) fn for_all() -> [String; 2] {
        ["first", "second"].map(|name| format!("{CHURN}/{name}.img"))
    }

    /// Returns random numbers for a part of the test that is not a client.
    pub(super) fn rng(&self, who: u64) -> Rng {
        Rng::new(self.seed, 1000 + who)
    }

    /// Stops the clients.
    pub(super) fn end(&self) {
        self.over.set(true);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Waits until nothing is open any more that was not at the start, but for what a larger parking
    /// takes. The service closes what is left of released locks a moment after their release.
    pub(super) async fn has_no_more_open(&self, main: MainProcess) {
        let before = self.idle.len();
        let mut open = Vec::new();
        let closed = async {
            loop {
                open = descriptors(main);
                if open.len() <= before + 8 {
                    return;
                }
                yield_now().await;
            }
        };
        let closed = timeout(DEADLINE, closed).await;
        let after = open.len();
        println!("  descriptors of the service that holds nothing: {before} before, {after} after");
        assert!(closed.is_ok(), "still open: {open:#?}\nat the start: {:#?}", self.idle);
    }
}
