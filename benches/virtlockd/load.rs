//! Measures durations.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::fixture::rpc::{AUTOCREATE, Answer, Owner, Refusal, Rpc};
use super::guest::{Guest, Sleeper, owner};
use super::rows::median;
use super::server::Server;

/// The number of guest starts in one figure.
const STARTS: usize = 20;
/// The maximum number of concurrent clients.
pub(crate) const CLIENTS: usize = 16;
/// The maximum number of disks of a guest.
const DISKS: usize = 32;

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The durations of many operations.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    /// The elapsed times of the clients, in microseconds.
    pub(crate) times: Vec<f64>,
    /// The processor time of all threads of the server for one operation, in microseconds.
    pub(crate) work: f64,
    /// The operations in a second, of all clients together.
    pub(crate) rate: f64,
}

impl Cost {
    /// Runs `measured`, which returns the elapsed times of operations.
    fn of(server: &Server, measured: impl FnOnce() -> Vec<f64>) -> Cost {
        let (before, begun) = (server.worked(), Instant::now());
        let times = measured();
        let elapsed = begun.elapsed().as_secs_f64();
        let worked = micros(server.worked().saturating_sub(before));
        let count = f64::from(u32::try_from(times.len()).unwrap());
        Cost { times, work: worked / count, rate: count / elapsed }
    }
}

/// A resource as the protocol names it: with or without a lockspace.
struct Resource {
    lockspace: Vec<u8>,
    name: Vec<u8>,
    flags: u32,
}

impl Resource {
    /// Returns the resource for a disk, or for the lock file that libvirt names after the SHA-256
    /// of its path.
    fn of(disk: &Path, hashed: Option<&Path>) -> Resource {
        let path = disk.as_os_str().as_bytes();
        let Some(lockspace) = hashed else {
            return Resource { lockspace: Vec::new(), name: path.to_owned(), flags: 0 };
        };
        let digest = Sha256::digest(path);
        let name = digest.iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        let lockspace = lockspace.as_os_str().as_bytes().to_owned();
        Resource { lockspace, name: name.into_bytes(), flags: AUTOCREATE }
    }

    fn request(&self, rpc: &mut Rpc) -> Answer {
        rpc.acquire(&self.lockspace, &self.name, self.flags)
    }

    fn acquire(&self, rpc: &mut Rpc) {
        self.request(rpc).granted();
    }

    fn release(&self, rpc: &mut Rpc) {
        rpc.release(&self.lockspace, &self.name, 0).granted();
    }
}

/// Disks, and the guests that use them.
pub(crate) struct Workload {
    /// The disks of the clients, and after them the disks of guests: these stay reserved for a guest
    /// until the server has noticed its end.
    disks: Vec<PathBuf>,
    owners: Vec<Owner>,
    started: AtomicU32,
    // Dropped with the fixture.
    _sleepers: Vec<Sleeper>,
}

impl Workload {
    /// Creates the disks, and a lockspace on each server.
    pub(crate) fn new(directory: &Path, servers: &[Server]) -> Workload {
        let disk = |n: usize| directory.join(format!("disk-{n}.img"));
        let disks: Vec<PathBuf> = (0..CLIENTS + DISKS).map(disk).collect();
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
        Workload { disks, owners, started, _sleepers: sleepers }
    }

    /// Connects a client, which uses a disk of its own.
    fn client(&self, server: &Server, n: usize, hashed: bool) -> (Rpc, Resource) {
        let lockspace = hashed.then(|| lockspace(server));
        let mut rpc = server.connect();
        rpc.register(&self.owners[n]).granted();
        (rpc, Resource::of(&self.disks[n], lockspace.as_deref()))
    }

    /// Measures an acquisition and its release together, `count` times by one client.
    pub(crate) fn pairs(&self, server: &Server, count: usize, hashed: bool) -> Cost {
        let (mut rpc, resource) = self.client(server, 0, hashed);
        Cost::of(server, || (0..count).map(|_| pair(&mut rpc, &resource)).collect())
    }

    /// Measures acquisitions and releases until `is_over`, by one client.
    pub(crate) fn pairs_until(&self, server: &Server, mut is_over: impl FnMut() -> bool) -> Cost {
        let (mut rpc, resource) = self.client(server, 0, false);
        Cost::of(server, || {
            let mut times = Vec::new();
            loop {
                times.push(pair(&mut rpc, &resource));
                if is_over() {
                    return times;
                }
            }
        })
    }

    /// Measures acquisitions and releases, `each` times by [`CLIENTS`] clients at once.
    pub(crate) fn pairs_at_once(&self, server: &Server, each: usize, hashed: bool) -> Cost {
        let begin = Barrier::new(CLIENTS + 1);
        thread::scope(|scope| {
            let run = |n: usize| {
                let (mut rpc, resource) = self.client(server, n, hashed);
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    (0..each).map(|_| pair(&mut rpc, &resource)).collect::<Vec<_>>()
                })
            };
            let running: Vec<_> = (0..CLIENTS).map(run).collect();
            Cost::of(server, || {
                begin.wait();
                running.into_iter().flat_map(|client| client.join().unwrap()).collect()
            })
        })
    }

    /// Measures the start of a guest as libvirt performs it. The guest's process is not counted; it has
    /// ended, and its disks are free, when the next guest starts.
    pub(crate) fn start(&self, server: &Server, disks: usize) -> Cost {
        let resources: Vec<Resource> =
            self.disks[CLIENTS..][..disks].iter().map(|d| Resource::of(d, None)).collect();
        let costs = (0..STARTS).map(|_| {
            loop {
                if let Some(cost) = self.start_once(server, &resources) {
                    break cost;
                }
            }
        });
        let (times, works): (Vec<f64>, Vec<f64>) = costs.unzip();
        let (work, rate) = (median(&works), 1e6 / median(&times));
        Cost { times, work, rate }
    }

    /// Measures one start. Returns `None` if the server has not noticed yet that the process of the
    /// previous guest has ended, and still reserves a disk for that guest.
    fn start_once(&self, server: &Server, resources: &[Resource]) -> Option<(f64, f64)> {
        let before = server.worked();
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let guest = Guest::start(server.socket(), number);
        let begun = Instant::now();
        let mut rpc = server.connect();
        rpc.register(&guest.owner).granted();
        for (n, resource) in resources.iter().enumerate() {
            let answer = resource.request(&mut rpc);
            let is_reserved =
                |refusal: &Refusal| n == 0 && refusal.message.contains(" is reserved for ");
            match answer {
                Answer::Refused(refusal) if is_reserved(&refusal) => return None,
                answer => answer.granted(),
            }
        }
        drop(rpc);
        let took = begun.elapsed() + guest.took;
        let worked = server.worked().saturating_sub(before);
        // virtlockd would handle nothing else for 0.2 s if a guest with locks ended.
        let mut rpc = server.connect();
        rpc.register(&guest.owner).granted();
        for resource in resources {
            resource.release(&mut rpc);
        }
        drop((rpc, guest));
        server.connect().ping().granted();
        Some((micros(took), micros(worked)))
    }
}

/// Acquires and releases a resource. Returns the duration in microseconds.
fn pair(rpc: &mut Rpc, resource: &Resource) -> f64 {
    let begun = Instant::now();
    resource.acquire(rpc);
    resource.release(rpc);
    micros(begun.elapsed())
}

/// Returns the lockspace of a server. Each has its own, as two servers would use the same lock
/// files.
fn lockspace(server: &Server) -> PathBuf {
    server.directory().join("lockspace")
}
