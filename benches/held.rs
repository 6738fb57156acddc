//! Measures whether the cost of a lock depends on the number of held locks: an acquisition and its
//! release at 10 and at 10,000 held locks.
//!
//! Measures the service itself, from the decision to the stash and the journal, without a bus. Two
//! services run alternately, so that noise affects both alike; the ratio is the result.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what fails here ends the run")]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use uuid::Uuid;
use vmlockd::inspector::Inspector;
use vmlockd::keep::Inherited;
use vmlockd::lock::disk::in_use::InUse;
use vmlockd::lock::model::disk_path::DiskPath;
use vmlockd::lock::model::loss_action::OnLost;
use vmlockd::lock::path::open::Links;
use vmlockd::lock::resolve::lock_file::Naming;
use vmlockd::lock::resolve::{Resolve, Wanted};
use vmlockd::lock::{Front, Mode, OwnerId};
use vmlockd::service::io::executor::Executor;
use vmlockd::service::restore;
use vmlockd::service::{
    Disk, Exempt, LockRequest, NewAnchor, Opening, OwnerRelease, Service, Settings,
};

const HELD: [usize; 2] = [10, 10_000];
const ROUNDS: usize = 1000;
const TURNS: usize = 5;
/// The maximum number of disks in one call.
const AT_ONCE: usize = 64;

fn ask(disk: &Path) -> LockRequest {
    let wanted = Wanted::Path(DiskPath::parse(disk.to_str().unwrap()).unwrap());
    let resolve = Resolve::new(wanted, Naming::Direct, Links::Follow);
    let (disk, mode) = (Disk::Wanted(resolve), Mode::Exclusive);
    LockRequest { disk, mode, with_lease: false, in_use: InUse::Refused, named_by: None }
}

/// A service that holds a number of locks, and a disk that it does not hold.
struct Setup {
    service: Service,
    owner: OwnerId,
    disk: PathBuf,
    held: usize,
    times: Vec<Duration>,
    /// The whole duration, with the work that follows the reply and delays other requests.
    whole: Duration,
}

impl Setup {
    async fn new(directory: &Path, held: usize) -> Self {
        let runtime = directory.join("run");
        std::fs::create_dir_all(&runtime).unwrap();
        let (settings, inherited) = (Settings::default(), Inherited::default());
        let storage = Executor::default();
        let restored =
            restore(settings, Exempt::Root, &runtime, inherited, storage, Inspector::default())
                .unwrap();
        let service = restored.service().clone();
        restored.settle();
        let owner = OwnerId::new(0, Uuid::from_u128(1));
        let anchors = vec![NewAnchor::Manual];
        let (name, why, front) = ("measured".to_owned(), String::new(), Front::Dbus);
        let opening = Opening {
            id: owner,
            name,
            why,
            front,
            on_lost: OnLost::Notify,
            anchors,
            requests: Vec::new(),
        };
        service.open(opening, None).await.unwrap();
        let disk = |n: usize| directory.join(n.to_string());
        for n in 0..=held {
            File::create_new(disk(n)).unwrap();
        }
        let all: Vec<_> = (0..held).map(disk).collect();
        for disks in all.chunks(AT_ONCE) {
            let asks = disks.iter().map(|disk| ask(disk)).collect();
            service.acquire(owner, asks, None).await.unwrap();
        }
        let disk = disk(held);
        Self { service, owner, disk, held, times: Vec::new(), whole: Duration::ZERO }
    }

    async fn measure(&mut self) {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let asks = vec![ask(&self.disk)];
            let granted = self.service.acquire(self.owner, asks, None).await.unwrap();
            self.service.release(self.owner, &granted.locks, 0, false).await.unwrap();
            self.times.push(start.elapsed());
        }
        self.whole += begun.elapsed();
    }

    /// Returns the median and the mean.
    fn cost(&mut self) -> [f64; 2] {
        self.times.sort_unstable();
        let median = self.times[self.times.len() / 2].as_secs_f64() * 1e6;
        let mean = (self.whole / u32::try_from(ROUNDS * TURNS).unwrap()).as_secs_f64() * 1e6;
        println!("  {:6} held: median {median:.1} us, mean {mean:.1} us", self.held);
        [median, mean]
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo bench` passes --bench. `cargo test --benches` does not, and must not run this.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // In memory, like the runtime directory.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut setups = Vec::new();
    for held in HELD {
        let own = directory.path().join(held.to_string());
        std::fs::create_dir(&own).unwrap();
        setups.push(Setup::new(&own, held).await);
    }
    for _ in 0..TURNS {
        for setup in &mut setups {
            setup.measure().await;
        }
    }
    println!("a lock given and given back, {} times each, without a bus:", ROUNDS * TURNS);
    let costs: Vec<_> = setups.iter_mut().map(Setup::cost).collect();
    let [few, many] = costs[..] else { unreachable!("there are two") };
    println!("  many to few: median {:.2}, mean {:.2}", many[0] / few[0], many[1] / few[1]);
    for setup in &setups {
        let authorized = BTreeSet::new();
        let owner = setup.owner;
        let request = OwnerRelease { owner, authorized: &authorized, by: 0, force: true };
        setup.service.close(request).await.unwrap();
    }
}
