//! Measures acquisitions over D-Bus beside bare calls on the same connection.

use std::path::Path;
use std::time::{Duration, Instant};

use zbus::Connection;
use zbus::fdo::PeerProxy;

use super::dbus_client::{TestVm, exclusive};

/// The durations of bare calls, and of acquisitions of all of the disks.
#[derive(Debug, Default)]
pub(crate) struct CallTimes {
    pub(crate) calls: Vec<Duration>,
    pub(crate) acquisitions: Vec<Duration>,
}

impl CallTimes {
    /// Measures both alternately, so that noise affects both alike. An acquisition is one call for all
    /// `disks`; the release after it is not measured.
    pub(crate) async fn measure(
        bus: &Connection,
        machine: &TestVm,
        disks: &[&Path],
        count: usize,
    ) -> CallTimes {
        let peer = PeerProxy::builder(bus).destination("org.vmlockd1").path("/org/vmlockd1");
        let peer = peer.build().await.unwrap();
        let disks: Vec<_> = disks.iter().map(|disk| exclusive(disk)).collect();
        let mut times = CallTimes::default();
        for _ in 0..count {
            let start = Instant::now();
            peer.ping().await.unwrap();
            times.calls.push(start.elapsed());
            let start = Instant::now();
            let locks = machine.acquire(&disks).await.unwrap();
            times.acquisitions.push(start.elapsed());
            machine.release(&locks).await.unwrap();
        }
        times
    }
}
