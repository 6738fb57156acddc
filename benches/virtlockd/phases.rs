//! The groups of rows, and how each is measured.

use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::load::{CLIENTS, Cost, Workload};
use super::many::{self, Holder};
use super::remote::RemoteMount;
use super::rows::{RowSpec, Scale, Table, median, percentile};
use super::selection::Selection;
use super::server::Server;

/// The number of acquisitions and releases of one client in one figure.
const PAIRS: usize = 2000;
/// The number of acquisitions and releases of all clients: in a burst, and under sustained load.
const BURST: usize = 1000;
const SUSTAINED: usize = 12_000;
/// The numbers of disks of a guest that starts.
const DISKS: [usize; 3] = [1, 8, 32];

/// The servers, with their load.
pub(crate) struct Bench<'b> {
    pub(crate) selection: &'b Selection,
    pub(crate) servers: &'b [Server],
    pub(crate) workload: Workload,
    /// Whether rows of [`Bench::times`] are shown in the README.
    pub(crate) in_readme: bool,
}

impl Bench<'_> {
    /// Measures a group of rows: in each round all servers, one after the other, so that noise affects
    /// all alike.
    fn group(&self, table: &mut Table, specs: Vec<RowSpec>, measure: &dyn Fn(&Server) -> Vec<f64>) {
        if !specs.iter().any(|spec| self.selection.has(&spec.name)) {
            return;
        }
        let count = self.servers.len();
        let round = |round: usize| {
            let mut figures = vec![Vec::new(); count];
            for turn in 0..count {
                let which = (round + turn) % count;
                figures[which] = measure(&self.servers[which]);
            }
            figures
        };
        let rounds: Vec<_> = (0..self.selection.repetitions).map(round).collect();
        table.add(specs, &rounds);
    }

    fn number(&self, number: usize) -> usize {
        self.selection.number(number)
    }

    /// Measures what clients wait for.
    pub(crate) fn times(&self, table: &mut Table) {
        for (name, hashed, targets) in [("direct", false, [0.8, 0.9]), ("key", true, [0.9, 1.0])] {
            let row = |what| RowSpec::new(format!("{name}, 1 client: {what}"), "us", Scale::Less);
            let specs = vec![
                row("p50")
                    .without_bus(targets[0])
                    .with_bus(targets[1])
                    .in_readme_if(self.in_readme),
                row("p99").target(1.5),
                row("work of the server"),
            ];
            self.group(table, specs, &|server| {
                let cost = self.workload.pairs(server, self.number(PAIRS), hashed);
                vec![median(&cost.times), percentile(&cost.times, 99), cost.work]
            });
        }
        for (name, hashed) in [("direct", false), ("key", true)] {
            self.clients(table, name, hashed);
        }
        for disks in DISKS {
            let name = format!("start of a guest, disks: {disks}");
            let mut spec = RowSpec::new(name, "us", Scale::Less);
            if disks > 1 {
                spec = spec.target(0.8);
            }
            spec = spec.in_readme_if(self.in_readme && disks == 8);
            self.group(table, vec![spec], &|server| {
                vec![median(&self.workload.start(server, disks).times)]
            });
        }
    }

    fn clients(&self, table: &mut Table, name: &str, hashed: bool) {
        let rate = |what| {
            RowSpec::new(format!("{name}, {CLIENTS} clients: {what}"), "pairs/s", Scale::More)
        };
        let late =
            |what| RowSpec::new(format!("{name}, {CLIENTS} clients: {what}"), "us", Scale::Less);
        let specs = vec![
            rate("burst of 1000")
                .without_bus(1.2)
                .with_bus(1.0)
                .in_readme_if(self.in_readme && !hashed),
            late("burst, p99").without_bus(1.0),
            rate("sustained").without_bus(1.2).with_bus(0.6),
            late("sustained, p99").without_bus(1.0),
        ];
        self.group(table, specs, &|server| {
            server.settle();
            let run = |count: usize| -> [f64; 2] {
                let cost = self.workload.pairs_at_once(server, count.div_ceil(CLIENTS), hashed);
                [cost.rate, percentile(&cost.times, 99)]
            };
            [run(BURST), run(self.number(SUSTAINED))].concat()
        });
    }

    /// Returns medians of rows that are compared with themselves: direct, key, start of a guest.
    fn sample(&self, server: &Server) -> [f64; 3] {
        let count = self.number(PAIRS / 2);
        let of = |cost: Cost| median(&cost.times);
        [
            of(self.workload.pairs(server, count, false)),
            of(self.workload.pairs(server, count, true)),
            of(self.workload.start(server, 8)),
        ]
    }

    /// Returns the rows for ratios of [`Bench::sample`].
    fn ratios(what: &str, target: f64) -> Vec<RowSpec> {
        let rows = ["direct, 1 client", "key, 1 client", "start of a guest, disks: 8"];
        let row = |row| RowSpec::new(format!("{what}: {row}"), "", Scale::Absolute).target(target);
        rows.map(row).into()
    }

    /// Measures what a remote mount on the host costs requests for other mounts.
    pub(crate) fn remote(&self, table: &mut Table, directory: &Path) {
        let mut specs = Self::ratios("with a remote mount : without", 1.05);
        specs[0] = specs[0].clone().in_readme();
        if !specs.iter().any(|spec| self.selection.has(&spec.name)) {
            return;
        }
        if let Err(error) = RemoteMount::mount(directory) {
            println!("skipped: rows with a remote mount: {error}");
            return;
        }
        self.group(table, specs, &|server| {
            let without = self.sample(server);
            let _mount = RemoteMount::mount(directory).expect("it was mounted before");
            let with = self.sample(server);
            (0..3).map(|n| with[n] / without[n]).collect()
        });
    }

    /// Measures what many locks of one owner cost others, while they are held and while it ends.
    pub(crate) fn many(&self, table: &mut Table, directory: &Path, locks: usize) {
        let mut specs = Self::ratios(&format!("with {locks} locks held : with 1"), 1.1);
        let row = |what| {
            RowSpec::new(format!("end of an owner of {locks} locks: {what}"), "us", Scale::Less)
        };
        specs.extend([
            row("longest wait of others").target(1.0).in_readme(),
            row("p99 of others"),
            row("until all are released"),
        ]);
        let files = many::files(directory, locks);
        self.group(table, specs, &|server| {
            let few = self.sample(server);
            let holder = Holder::lock(server, &files);
            server.settle();
            let with = self.sample(server);
            let mut figures: Vec<f64> = (0..3).map(|n| with[n] / few[n]).collect();
            let (begun, mut is_unlocked) = (Instant::now(), many::unlocked(&files));
            // The other client is connected, and has locked a disk, before the process ends; it goes on
            // until all locks are released.
            let (mut holder, mut ending) = (Some(holder), None);
            let cost = self.workload.pairs_until(server, || {
                if let Some(holder) = holder.take() {
                    ending = Some(thread::spawn(|| holder.end()));
                }
                ending.as_ref().is_some_and(JoinHandle::is_finished) && is_unlocked()
            });
            let longest = cost.times.iter().copied().fold(0.0, f64::max);
            let whole = begun.elapsed().as_secs_f64() * 1e6;
            figures.extend([longest, percentile(&cost.times, 99), whole]);
            figures
        });
    }
}
