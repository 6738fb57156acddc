//! The id that a SCSI disk has on every host, as udev's tool prints it. libvirt calls the same tool
//! in the same way (`src/util/virstoragefile.c`), so both use the same lock file.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::fstat;

use crate::lock::model::identity::Identity;
use crate::lock::model::lease_name::check_key;
use crate::lock::path::open::{self, Links};
use crate::lock::path::subprocess;
use crate::lock::sysfs::Sysfs;
use crate::lock::text::escape::shown_path;
use crate::sync;

/// The paths of the tool in distributions.
const TOOLS: [&str; 2] = ["/lib/udev/scsi_id", "/usr/lib/udev/scsi_id"];
/// The timeout of the tool. A disk that responds at all does so in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The id of a disk if it has one, or the error.
type IdResult = Result<Option<String>, String>;

/// The answer for a disk, once there is one.
type Answer = Arc<OnceLock<IdResult>>;

/// A cache of the ids of disks, each queried once.
#[derive(Debug)]
pub(in crate::lock) struct ScsiIds {
    tools: Vec<PathBuf>,
    timeout: Duration,
    sysfs: Sysfs,
    /// By device, with its disk sequence number: another disk with the same number has another one.
    cache: Mutex<HashMap<u64, (u64, Answer)>>,
}

/// Returns the cache for the disks of this host.
pub(in crate::lock) fn of_this_host() -> &'static ScsiIds {
    static HERE: LazyLock<ScsiIds> = LazyLock::new(|| {
        ScsiIds::new(TOOLS.map(PathBuf::from).to_vec(), TIMEOUT, Sysfs::default())
    });
    &HERE
}

impl ScsiIds {
    fn new(tools: Vec<PathBuf>, timeout: Duration, sysfs: Sysfs) -> Self {
        Self { tools, timeout, sysfs, cache: Mutex::default() }
    }

    /// Returns the id of a disk by its `O_PATH` descriptor; `None` for a disk without one, as most
    /// that are no SCSI disks.
    ///
    /// # Errors
    ///
    /// Why it is unknown, as the end of a sentence. A disk that has an id must not be locked
    /// without it: other hosts would lock another file.
    pub(in crate::lock) fn id(&self, pin: BorrowedFd<'_>, identity: Identity) -> IdResult {
        let Identity::Block { dev, seq } = identity else { return Ok(None) };
        // A partition has the id of its disk. A query of the partition itself needs privileges that
        // the service does not need otherwise.
        let whole = self.sysfs.whole(dev).ok().flatten();
        let whole = whole.and_then(|dev| Some((dev, self.pin(dev)?)));
        let (dev, pin) = match &whole {
            Some((dev, pin)) => (*dev, pin.as_fd()),
            None => (dev, pin),
        };
        if seq == 0 {
            return self.query(pin);
        }
        let answer = {
            let mut cache = sync::lock(&self.cache);
            let (since, answer) = cache.entry(dev).or_default();
            if *since != seq {
                (*since, *answer) = (seq, Arc::default());
            }
            Arc::clone(answer)
        };
        let id = answer.get_or_init(|| self.query(pin)).clone();
        if id.is_err() {
            // Concurrent callers share this answer; a later caller queries again.
            let mut cache = sync::lock(&self.cache);
            if cache.get(&dev).is_some_and(|(_, cached)| Arc::ptr_eq(cached, &answer)) {
                cache.remove(&dev);
            }
        }
        id
    }

    /// Opens a device by its number (`O_PATH`), through the node that the kernel reports.
    fn pin(&self, dev: u64) -> Option<OwnedFd> {
        let node = self.sysfs.node(dev).ok().flatten()?;
        let pin = open::locate(&node, Links::Refuse).ok()?;
        let stat = fstat(&pin).ok()?;
        let same =
            matches!(Identity::of(&stat), Some(Identity::Block { .. })) && stat.st_rdev == dev;
        same.then_some(pin)
    }

    fn query(&self, pin: BorrowedFd<'_>) -> IdResult {
        let tool = self.tools.iter().find(|tool| tool.exists()).ok_or_else(|| {
            let directories = self.tools.iter().filter_map(|tool| tool.parent());
            let directories: Vec<String> = directories.map(shown_path).collect();
            format!("there is no scsi_id in {}", directories.join(" or "))
        })?;
        let failed = |why: String| format!("{}: {why}", shown_path(tool));
        let pin = pin.try_clone_to_owned().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(tool);
        command.args(["--replace-whitespace", "--whitelisted", "--device", "/proc/self/fd/0"]);
        // The tool gets the device that was found: no name is looked up again.
        command.stdin(Stdio::from(pin));
        let output =
            subprocess::run(command, self.timeout).map_err(|error| failed(error.to_string()))?;
        match output.status.code() {
            Some(0) => parse_output(&output.stdout).map_err(failed),
            // The disk has no id.
            Some(_) => Ok(None),
            None => Err(failed(format!("it ended with {}", output.status))),
        }
    }
}

/// Returns the first line, if it is valid as a file name.
fn parse_output(output: &[u8]) -> IdResult {
    let line = output.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.is_empty() {
        return Ok(None);
    }
    let invalid = || "its output is not an id".to_owned();
    let id = str::from_utf8(line).map_err(|_| invalid())?;
    if check_key(id).is_err() || id.chars().any(char::is_control) {
        return Err(invalid());
    }
    Ok(Some(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    struct Fixture {
        dir: tempfile::TempDir,
        ids: ScsiIds,
        file: File,
    }

    /// Returns a tool that records each of its runs.
    fn fixture(script: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (tool, runs) = (dir.path().join("scsi_id"), dir.path().join("runs"));
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\n{script}\n", runs.display());
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let tools = vec![dir.path().join("none"), tool];
        let ids = ScsiIds::new(tools, Duration::from_secs(60), Sysfs::at(dir.path()));
        let file = File::create(dir.path().join("disk")).unwrap();
        Fixture { dir, ids, file }
    }

    impl Fixture {
        fn query(&self, dev: u64, seq: u64) -> IdResult {
            self.ids.id(self.file.as_fd(), Identity::Block { dev, seq })
        }

        fn runs(&self) -> usize {
            let runs = fs::read_to_string(self.dir.path().join("runs")).unwrap_or_default();
            let arguments = "--replace-whitespace --whitelisted --device /proc/self/fd/0";
            assert!(runs.lines().all(|line| line == arguments), "{runs}");
            runs.lines().count()
        }
    }

    #[test]
    fn the_id_of_a_disk_is_queried_once() {
        let fixture = fixture("cat /proc/self/fd/0; echo 35000c500a1b2c3d4; echo more");
        for _ in 0..2 {
            assert_eq!(fixture.query(1, 7).unwrap().unwrap(), "35000c500a1b2c3d4");
        }
        assert_eq!(fixture.runs(), 1);
        // Another disk with the same number.
        fixture.query(1, 8).unwrap().unwrap();
        fixture.query(2, 7).unwrap().unwrap();
        assert_eq!(fixture.runs(), 3);
        // A disk without a sequence number is not cached, since it cannot be distinguished from
        // another.
        fixture.query(3, 0).unwrap().unwrap();
        fixture.query(3, 0).unwrap().unwrap();
        assert_eq!(fixture.runs(), 5);
        let file = Identity::Inode { dev: 1, ino: 1 };
        assert_eq!(fixture.ids.id(fixture.file.as_fd(), file).unwrap(), None);
        assert_eq!(fixture.runs(), 5);
    }

    #[test]
    fn concurrent_callers_share_one_query() {
        let fixture = fixture("echo id");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(fixture.query(1, 7).unwrap().unwrap(), "id"));
            }
        });
        assert_eq!(fixture.runs(), 1);
    }

    #[test]
    fn a_missing_id_is_cached() {
        for script in ["exit 1", "echo id; exit 1", "exit 0", "echo; echo x"] {
            let fixture = fixture(script);
            assert_eq!(
                (fixture.query(1, 7), fixture.query(1, 7)),
                (Ok(None), Ok(None)),
                "{script}"
            );
            assert_eq!(fixture.runs(), 1);
        }
    }

    #[test]
    fn an_invalid_id_is_refused_and_not_cached() {
        for (script, why) in [
            ("echo a/b", "its output is not an id"),
            ("echo ..", "its output is not an id"),
            ("printf 'a\\tb'", "its output is not an id"),
            ("printf '\\377'", "its output is not an id"),
            ("head -c 300 /dev/zero | tr '\\0' x", "its output is not an id"),
            ("exec head -c 9000 /dev/zero", "it wrote more than 4096 bytes"),
            ("kill -9 $$", "it ended with signal: 9"),
        ] {
            let fixture = fixture(script);
            for runs in 1..3 {
                let error = fixture.query(1, 7).unwrap_err();
                assert!(error.contains(why), "{error}");
                assert!(error.contains("/scsi_id: "), "{error}");
                assert_eq!(fixture.runs(), runs, "{script}");
            }
        }
    }

    #[test]
    fn a_hung_or_missing_tool_is_an_error() {
        let mut fixture = fixture("exec sleep 60");
        fixture.ids.timeout = Duration::from_millis(100);
        let error = fixture.query(1, 7).unwrap_err();
        assert!(error.contains("did not exit within"), "{error}");
        let tools = vec![Path::new("/none/a/scsi_id").to_owned(), "/none/b/scsi_id".into()];
        fixture.ids.tools = tools;
        assert_eq!(fixture.query(1, 7).unwrap_err(), "there is no scsi_id in /none/a or /none/b");
    }
}
