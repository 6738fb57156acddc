//! What is measured in time.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::fixture::rpc::{AUTOCREATE, Owner, Rpc};
use super::guest::{Guest, Sleeper, owner};
use super::rows::median;
use super::server::Server;

/// Acquisitions and releases in one figure.
const PAIRS: usize = 400;
/// Starts in one figure.
const STARTS: usize = 20;
/// The most clients at once.
const CLIENTS: usize = 16;
/// The most disks of a guest.
const DISKS: usize = 32;

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What something cost, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Until the client went on.
    pub(crate) time: f64,
    /// On the server's side, in all its threads.
    pub(crate) work: f64,
}

impl Cost {
    /// Of one of so many, by a measurement that says how long one took.
    fn of(server: &Server, count: usize, measured: impl FnOnce() -> f64) -> Cost {
        let before = server.worked();
        let time = measured();
        let worked = micros(server.worked().saturating_sub(before));
        Cost { time, work: worked / f64::from(u32::try_from(count).unwrap()) }
    }
}

/// Where locks are taken: in a lockspace or not, and by which name.
struct Place {
    lockspace: Vec<u8>,
    name: Vec<u8>,
    flags: u32,
}

impl Place {
    /// Of a disk, or of the file that libvirt names after its path's SHA-256.
    fn of(disk: &Path, hashed: Option<&Path>) -> Place {
        let path = disk.as_os_str().as_bytes();
        let Some(lockspace) = hashed else {
            return Place { lockspace: Vec::new(), name: path.to_owned(), flags: 0 };
        };
        let digest = Sha256::digest(path);
        let name = digest.iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        let lockspace = lockspace.as_os_str().as_bytes().to_owned();
        Place { lockspace, name: name.into_bytes(), flags: AUTOCREATE }
    }

    fn acquire(&self, rpc: &mut Rpc) {
        rpc.acquire(&self.lockspace, &self.name, self.flags).granted();
    }

    fn release(&self, rpc: &mut Rpc) {
        rpc.release(&self.lockspace, &self.name, 0).granted();
    }
}

/// Disks, and the machines that use them.
pub(crate) struct Scene {
    disks: Vec<PathBuf>,
    owners: Vec<Owner>,
    started: AtomicU32,
    // To the end of the scene.
    _sleepers: Vec<Sleeper>,
}

impl Scene {
    /// Sets it, and makes a lockspace at each server.
    pub(crate) fn set(directory: &Path, servers: &[Server]) -> Scene {
        let disk = |n: usize| directory.join(format!("disk-{n}.img"));
        let disks: Vec<PathBuf> = (0..CLIENTS.max(DISKS)).map(disk).collect();
        for disk in &disks {
            File::create_new(disk).unwrap();
        }
        for server in servers {
            let lockspace = lockspace(server);
            server.connect().create_lockspace(lockspace.as_os_str().as_bytes()).granted();
        }
        let sleepers: Vec<Sleeper> = (0..CLIENTS).map(|_| Sleeper::new()).collect();
        let owners = (0..).zip(&sleepers).map(|(n, sleeper)| owner(n, sleeper.pid())).collect();
        let started = AtomicU32::new(u32::try_from(CLIENTS).unwrap());
        Scene { disks, owners, started, _sleepers: sleepers }
    }

    /// What an acquisition and a release cost together: the median where one client asks, and the
    /// whole time shared out where many do.
    pub(crate) fn pairs(&self, server: &Server, clients: usize, hashed: bool) -> Cost {
        let lockspace = hashed.then(|| lockspace(server));
        let client = |n: usize| {
            let mut rpc = server.connect();
            rpc.register(&self.owners[n]).granted();
            (rpc, Place::of(&self.disks[n], lockspace.as_deref()))
        };
        if clients == 1 {
            let (mut rpc, place) = client(0);
            return Cost::of(server, PAIRS, || {
                let times = (0..PAIRS).map(|_| {
                    let begun = Instant::now();
                    place.acquire(&mut rpc);
                    place.release(&mut rpc);
                    micros(begun.elapsed())
                });
                median(&times.collect::<Vec<_>>())
            });
        }
        let each = PAIRS / 4;
        let begin = Barrier::new(clients + 1);
        let mut cost = None;
        thread::scope(|scope| {
            let run = |n: usize| {
                let (mut rpc, place) = client(n);
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..each {
                        place.acquire(&mut rpc);
                        place.release(&mut rpc);
                    }
                })
            };
            let running: Vec<_> = (0..clients).map(run).collect();
            let all = clients * each;
            cost = Some(Cost::of(server, all, || {
                let begun = Instant::now();
                begin.wait();
                for client in running {
                    client.join().unwrap();
                }
                micros(begun.elapsed()) / f64::from(u32::try_from(all).unwrap())
            }));
        });
        cost.expect("it was measured")
    }

    /// What libvirt does when a guest starts; its median. The guest's process is not counted; it has
    /// ended, and its disks are free, when the next one starts.
    pub(crate) fn start(&self, server: &Server, disks: usize) -> Cost {
        let places: Vec<Place> = self.disks[..disks].iter().map(|d| Place::of(d, None)).collect();
        let costs = (0..STARTS).map(|_| {
            let before = server.worked();
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            let guest = Guest::start(server.socket(), number);
            let begun = Instant::now();
            let mut rpc = server.connect();
            rpc.register(&guest.owner).granted();
            for place in &places {
                place.acquire(&mut rpc);
            }
            drop(rpc);
            let took = begun.elapsed() + guest.took;
            let worked = server.worked().saturating_sub(before);
            // virtlockd would see to the end of a guest that has locks for 0.2 s, and to nobody else.
            let mut rpc = server.connect();
            rpc.register(&guest.owner).granted();
            for place in &places {
                place.release(&mut rpc);
            }
            drop((rpc, guest));
            server.connect().ping().granted();
            (micros(took), micros(worked))
        });
        let (times, works): (Vec<f64>, Vec<f64>) = costs.unzip();
        Cost { time: median(&times), work: median(&works) }
    }
}

/// Each server its own, as two would use the same lock file.
fn lockspace(server: &Server) -> PathBuf {
    server.directory().join("lockspace")
}
