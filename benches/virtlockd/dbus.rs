//! Measures vmlockd on a message bus of its own: acquisitions beside bare calls, and restarts.

use std::fs::File;
use std::path::Path;

use super::acquisition::CallTimes;
use super::dbus_client::TestVm;
use super::fixture::Broker;
use super::many::{self, Holder};
use super::rows::{RowSpec, Scale, Table, median};
use super::selection::Selection;
use super::server::{Kind, Server};

const VMLOCKD: Kind = Kind::Vmlockd { kept: true, bus: true };
/// The number of calls in one figure.
const CALLS: usize = 400;
/// The numbers of disks in one call, with the target of each.
const DISKS: [(usize, f64); 2] = [(1, 1.5), (8, 2.0)];

/// Measures acquisitions on both message buses. Figures are ratios to bare calls.
pub(crate) async fn acquisitions(selection: &Selection, directory: &Path) -> Table {
    let mut table = Table::with_base("on D-Bus", "bare call");
    for broker in [Broker::DbusDaemon, Broker::DbusBroker] {
        let name = match broker {
            Broker::DbusDaemon => "dbus-daemon",
            Broker::DbusBroker => "dbus-broker",
        };
        if !selection.has(&format!("D-Bus acquisition, {name}")) {
            continue;
        }
        let place = directory.join(name);
        std::fs::create_dir(&place).unwrap();
        let server = Server::start_with(VMLOCKD, &place, broker).await;
        let connection = server.bus().expect("it has one").connection().await;
        let machine = TestVm::open(&connection, "measured").await;
        let disks: Vec<_> = (0..8).map(|n| place.join(format!("disk-{n}"))).collect();
        for disk in &disks {
            File::create_new(disk).unwrap();
        }
        for (count, target) in DISKS {
            let disks: Vec<&Path> = disks[..count].iter().map(AsRef::as_ref).collect();
            let row = format!("D-Bus acquisition, {name}, disks: {count}");
            let spec = RowSpec::new(row, "us", Scale::Less)
                .with_bus(target)
                .in_readme_if(broker == Broker::DbusDaemon && count == 1);
            let mut rounds = Vec::new();
            for _ in 0..selection.repetitions {
                let calls = selection.number(CALLS);
                let times = CallTimes::measure(&connection, &machine, &disks, calls).await;
                let of = |times: &[std::time::Duration]| {
                    let micros = times.iter().map(|time| time.as_secs_f64() * 1e6);
                    vec![median(&micros.collect::<Vec<_>>())]
                };
                rounds.push(vec![of(&times.calls), of(&times.acquisitions)]);
            }
            table.add(vec![spec], &rounds);
        }
    }
    table
}

/// Measures the time from the start of vmlockd with many stored locks until it has its name.
pub(crate) async fn restarts(selection: &Selection, directory: &Path, locks: usize) -> Table {
    let mut table = Table::with_base("restart", "no locks");
    let row = format!("start with {locks} locks, until it has its name");
    let spec = RowSpec::new(row, "ms", Scale::Absolute).with_bus(500.0).in_readme();
    if !selection.has(&spec.name) {
        return table;
    }
    let place = directory.join("restart");
    std::fs::create_dir(&place).unwrap();
    let mut server = Server::start(VMLOCKD, &place).await;
    let files = many::files(&place, locks);
    let millis = |time: std::time::Duration| vec![time.as_secs_f64() * 1e3];
    let mut empty = Vec::new();
    for _ in 0..selection.repetitions {
        empty.push(millis(server.restart().await));
    }
    let holder = Holder::lock(&server, &files);
    let mut rounds = Vec::new();
    for empty in empty {
        rounds.push(vec![empty, millis(server.restart().await)]);
    }
    table.add(vec![spec], &rounds);
    holder.end();
    table
}
