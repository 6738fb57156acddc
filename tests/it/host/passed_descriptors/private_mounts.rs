//! File systems that only the mount namespace of a caller has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zbus::Fd;

use crate::dbus_client::{TestVm, exclusive, lock, manager};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, Process, mortal, polkit, within};
use crate::methods::none;
use crate::nspawn::skip;
use crate::refused_requests::assert_refused;

/// A mount namespace with a tmpfs, and with an overlay over a FUSE file system whose server can be
/// stopped. Any user can make one that differs only in the user namespace that it belongs to.
struct Hidden {
    process: Process,
    dir: PathBuf,
    server: Pid,
}

impl Hidden {
    async fn start(fixture: &Fixture) -> Option<Hidden> {
        const SCRIPT: &str = r#"
            cd "$1"; mkdir low fuse up work merged tmp
            truncate --size=1M low/disk; chown 65534 low/disk
            mount -t tmpfs tmpfs tmp; truncate --size=1M tmp/disk; chown 65534 tmp/disk
            bindfs -f -o attr_timeout=0,entry_timeout=0 low fuse &
            echo $! > server
            until [ -e fuse/disk ]; do kill -0 $!; done
            mount -t overlay overlay -o lowerdir=fuse,upperdir=up,workdir=work merged
            echo ready; exec sleep infinity
        "#;
        if !Path::new("/dev/fuse").exists() {
            return skip("there is no /dev/fuse here");
        }
        let dir = fixture.dir().join("hidden");
        fs::create_dir(&dir).unwrap();
        let mut command: Command = mortal(None, "unshare");
        command.args(["--mount", "--propagation=private", "--", "sh", "-euc", SCRIPT, "hidden"]);
        command.arg(&dir).stdout(Stdio::piped());
        let process = Process::start("hidden", command, &fixture.dir().join("hidden.log"));
        process.first_output().await;
        let server = fs::read_to_string(dir.join("server")).unwrap();
        let server = Pid::from_raw(server.trim().parse().unwrap());
        Some(Hidden { process, dir, server })
    }

    fn open(&self, name: &str) -> fs::File {
        let there = PathBuf::from(format!("/proc/{}/root", self.process.pid()));
        let path = there.join(self.dir.strip_prefix("/").unwrap()).join(name);
        fs::File::options().read(true).write(true).open(path).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(self.server, signal).unwrap();
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = kill(self.server, Signal::SIGKILL);
    }
}

/// More than there are storage threads.
const MANY: usize = 40;

#[tokio::test]
async fn a_hung_private_mount_delays_no_other_user() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let Some(hidden) = Hidden::start(&fixture).await else { return };
    let (root, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let file = hidden.open("merged/disk");
    let machine = TestVm::open(&fixture.connection_as(NOBODY).await, "web1").await;
    let refused = machine.acquire_files(&[(&file, "exclusive")]).await.unwrap_err();
    assert_refused(&refused, "NotLockable", "it may be on FUSE, which 'allow_fuse' does not allow");

    hidden.signal(Signal::SIGSTOP);
    let refused = within("an answer", machine.acquire_files(&[(&file, "exclusive")])).await;
    assert_refused(&refused.unwrap_err(), "NotLockable", "its file system is not responding");
    let mut asked = Vec::new();
    for _ in 0..2 {
        let manager = manager(&fixture.connection_as(NOBODY).await).await;
        for _ in 0..MANY {
            let (manager, file) = (manager.clone(), file.try_clone().unwrap());
            asked.push(tokio::spawn(async move {
                manager.find_holders_of_file(Fd::from(&file), none()).await
            }));
        }
    }
    let web2 = TestVm::open(&root, "web2").await;
    within("an answer", web2.acquire(&[exclusive(&disk)])).await.unwrap();
    for asked in asked {
        // Which disk it is the kernel knows without its file system; or too much was asked.
        if let Err(error) = within("an answer", asked).await.unwrap() {
            let limit = "LimitsExceeded";
            assert!(error.to_string().contains(limit), "{error}");
        }
    }
    let metrics = manager(&root).await.get_metrics(none()).await.unwrap();
    assert_eq!(u64::try_from(&metrics["requests-hung"]).unwrap(), 0);
    fixture.daemon().terminate().await;
}

#[tokio::test]
async fn a_file_on_a_private_tmpfs_is_locked() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let Some(hidden) = Hidden::start(&fixture).await else { return };
    let user = fixture.connection_as(NOBODY).await;
    let machine = TestVm::open(&user, "web1").await;
    let file = hidden.open("tmp/disk");
    let locks = machine.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    let name = lock(&user, &locks[0]).await.resource().await.unwrap();
    assert!(name.starts_with("fd:"), "{name}");
    let refused = machine.acquire_files(&[(&file, "shared")]).await.unwrap_err();
    assert_refused(&refused, "DBus.Error.InvalidArgs", "convert lock");
}
