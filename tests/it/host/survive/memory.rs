//! A control group whose memory the service exceeds.

use std::fs;
use std::path::{Path, PathBuf};

use vmlockd::client::{MANAGER_PATH, SERVICE};

use crate::fixture::{NameWatch, within};
use crate::nspawn::{Host, MainProcess};

/// The memory that it may have, in bytes.
const LIMIT: &str = "262144";
/// The text in one message, in bytes: one that is longer than a mebibyte is not read.
const MESSAGE: usize = 900 << 10;

/// A limit, until it is dropped.
struct Limit {
    file: PathBuf,
    /// The control group, if it was made for this.
    made: Option<PathBuf>,
}

impl Limit {
    /// Limits the memory of a service's process: in its own control group, or in one of its own where
    /// memory is accounted for by the first version of control groups.
    fn of(host: &Host, service: MainProcess) -> Limit {
        let own = host.control_group("system.slice/vmlockd.service");
        let file = own.join("memory.max");
        if file.exists() {
            fs::write(&file, LIMIT).unwrap();
            return Limit { file, made: None };
        }
        let name = format!("vmlockd-test-{}", service.outside);
        let group = Path::new("/sys/fs/cgroup/memory").join(name);
        fs::create_dir(&group).unwrap_or_else(|e| panic!("memory can't be limited here: {e}"));
        let file = group.join("memory.limit_in_bytes");
        // Its existing memory is accounted for elsewhere.
        fs::write(&file, LIMIT).unwrap();
        fs::write(group.join("cgroup.procs"), service.outside.to_string()).unwrap();
        Limit { file, made: Some(group) }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        match &self.made {
            // The process has ended by now.
            Some(group) => drop(fs::remove_dir(group)),
            None => drop(fs::write(&self.file, "max")),
        }
    }
}

/// Makes the kernel kill the service for its memory.
pub(super) async fn exhaust(host: &Host, service: MainProcess, watch: &mut NameWatch) {
    let limit = Limit::of(host, service);
    let bus = host.bus().await;
    let text = "x".repeat(MESSAGE);
    let text = text.as_str();
    let calls = async {
        loop {
            // It is killed while it reads one of these.
            let peer = Some("org.freedesktop.DBus.Peer");
            let call = bus.call_method(Some(SERVICE), MANAGER_PATH, peer, "Ping", &text);
            if call.await.is_err_and(|error| !matches!(error, zbus::Error::MethodError(..))) {
                break;
            }
        }
    };
    within("the service is killed", async {
        tokio::select! {
            () = watch.not_owned_by(service.inside) => {}
            () = calls => {}
        }
    })
    .await;
    drop(limit);
}
