//! The places where the service can be made to abort, and how it is brought there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::injector::KillInjector;
use super::scenario::Scenario;
use super::statistics::count;
use crate::fixture::within;
use crate::nspawn::{Host, MainProcess};

/// The variable that makes the service abort.
const VARIABLE: &str = "VMLOCKD_ABORT_AT";
/// The environment file of the service.
const ARMED: &str = "/srv/soak/armed";
/// The environment file for the service that follows an abort.
const NEXT: &str = "/srv/soak/next";
/// How it ended, one line each time.
const ENDS: &str = "/srv/soak/ends";
/// Records the end of the service, and prevents a second abort.
const AFTERWARDS: &str = "echo \"$EXIT_CODE $EXIT_STATUS\" >>/srv/soak/ends
if [ \"$EXIT_STATUS\" = ABRT ]; then
    mv /srv/soak/next /srv/soak/armed 2>/dev/null || : >/srv/soak/armed
fi
";

/// The drop-in that makes a host's service do this.
pub(crate) const UNIT: &str = "EnvironmentFile=-/srv/soak/armed
ExecStopPost=/bin/sh /srv/soak/afterwards
";

/// All points that there are in the sources.
pub(crate) fn all() -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut points);
    points
}

fn collect(below: &Path, points: &mut BTreeSet<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, points);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let names =
                text.split("failpoint(\"").skip(1).filter_map(|rest| rest.split('"').next());
            for name in names {
                assert!(points.insert(name.to_owned()), "two points are called {name}");
            }
        }
    }
}

/// Makes what [`UNIT`] refers to. The service has to be started again.
pub(crate) fn prepare(host: &Host) {
    host.write(ARMED, "");
    host.write("/srv/soak/afterwards", AFTERWARDS);
}

/// Makes the next service abort when it reaches a failpoint for the n-th time.
pub(crate) fn arm(host: &Host, point: &str, n: usize) {
    host.write(ARMED, &format!("{VARIABLE}={point}:{n}\n"));
}

/// Makes the service after the next one abort in this way.
pub(crate) fn arm_next(host: &Host, point: &str, n: usize) {
    host.write(NEXT, &format!("{VARIABLE}={point}:{n}\n"));
}

/// Takes that back, for services that start from now on.
pub(crate) fn disarm(host: &Host) {
    host.write(ARMED, "");
}

/// Whether a process has been told where to abort, or has not. One that is dying has no environment
/// any more, and tells neither; a service is never without one.
pub(crate) fn is_armed(main: MainProcess) -> Option<bool> {
    let environment = fs::read(format!("/proc/{}/environ", main.outside)).ok()?;
    let armed = environment.windows(VARIABLE.len()).any(|part| part == VARIABLE.as_bytes());
    (!environment.is_empty()).then_some(armed)
}

/// How often the service has aborted.
pub(crate) fn aborts(host: &Host) -> usize {
    let ends = fs::read_to_string(host.at(ENDS)).unwrap_or_default();
    ends.lines().filter(|line| line.ends_with(" ABRT")).count()
}

impl KillInjector<'_> {
    /// Makes the service abort when it reaches a failpoint for the n-th time. Only the usual load
    /// and the restart lead it there.
    pub(crate) async fn abort_at(&mut self, scenario: &Scenario, point: &str, n: usize) {
        let host = &scenario.host;
        self.prepare().await;
        let before = self.service(false).await;
        let aborted = aborts(host);
        arm(host, point, n);
        self.strike(before).await;
        if point == "reexec" {
            self.service(true).await.signal(Signal::SIGUSR1);
        }
        let reached = async {
            while aborts(host) == aborted {
                scenario.statistics.commands(1).await;
            }
        };
        within(&format!("the service comes by {point} {n} times"), reached).await;
        assert_eq!(aborts(host), aborted + 1, "{point}");
        count(&scenario.statistics.aborts);
        self.service(false).await;
        self.inspect().await;
    }
}

/// The service has said where it aborted, each time.
pub(crate) async fn were_reached(host: &Host, points: &BTreeSet<String>, runs: usize) {
    let journal = host.journal().await;
    for point in points {
        let said = format!("aborting at {point}, as told");
        assert_eq!(journal.matches(&said).count(), runs, "{point}");
    }
}
