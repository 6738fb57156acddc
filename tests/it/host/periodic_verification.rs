//! Locks that are lost by remote storage: the service notices it, and performs the on-lost action
//! that was set when the owner was opened.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, Stdio};

use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath};

use crate::dbus_client::{TestVm, exclusive, lock, manager, owner};
use crate::fixture::user::{Account, NOBODY};
use crate::fixture::{Answer, Fixture, Process, gone, mortal, pidfd, polkit, within};
use crate::methods::none;
use crate::virtlockd::host::hung_mount::HungMount;

/// A fixture whose lock files are with a server that is a process.
async fn fixture_with(
    far: impl AsyncFnOnce(&Fixture) -> Option<HungMount>,
) -> Option<(Fixture, HungMount)> {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let far = far(&fixture).await?;
    fixture.configure("file_lockspace_dir = \"@DIR@/far\"\nverify_interval = 1\n");
    manager(&fixture.connection().await).await.reload(none()).await.unwrap();
    Some((fixture, far))
}

/// A machine with a process.
struct Guest {
    process: Process,
    machine: TestVm,
    lock: OwnedObjectPath,
    /// The lock file behind the file system.
    file: PathBuf,
}

impl Guest {
    async fn start(
        fixture: &Fixture,
        bus: &Connection,
        uid: u32,
        on_lost: &str,
        sh: &str,
    ) -> Guest {
        let account = Account::of(uid);
        let mut command = mortal((uid != 0).then_some(&account), "sh");
        command.args(["-c", sh]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = Process::start("guest", command, &fixture.dir().join("guest.log"));
        // setpriv has become the user, and sh.
        process.first_output().await;
        let mut options = none();
        options.insert("on-lost", on_lost.into());
        options.insert("process", zbus::Fd::from(pidfd(process.pid())).into());
        let machine = TestVm::open_with(bus, "", on_lost, options).await.unwrap();
        let disk = fixture.raw_of(uid, &format!("{on_lost}-{uid}"));
        let locks = machine.acquire(&[exclusive(&disk)]).await.unwrap();
        let file = PathBuf::from(lock(bus, &locks[0]).await.lock_file().await.unwrap());
        let file = fixture.dir().join("behind").join(file.file_name().unwrap());
        assert!(file.exists());
        Guest { process, machine, lock: locks[0].clone(), file }
    }

    /// The storage forgets its lock; the service says so.
    async fn loses(&self, bus: &Connection) {
        let rule = MatchRule::builder().msg_type(Type::Signal).member("LockLost");
        let rule = rule.path(vmlockd::client::MANAGER_PATH).build().unwrap();
        let mut losses = pin!(MessageStream::for_match_rule(rule, bus, None).await.unwrap());
        fs::remove_file(&self.file).unwrap();
        let message = within("LockLost", losses.next()).await.unwrap().unwrap();
        let told: (OwnedObjectPath, OwnedObjectPath, String, String) =
            message.body().deserialize().unwrap();
        assert_eq!(
            (told.0, told.1, &told.3[..]),
            (self.lock.clone(), self.machine.path(), "replaced")
        );
    }

    /// Returns its state as the kernel reports it, in a letter (`proc_pid_stat(5)`).
    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }
}

const WAIT: &str = "echo ready; read line";

#[tokio::test]
async fn the_on_lost_action_pauses_kills_or_does_nothing() {
    let Some((fixture, _far)) = fixture_with(HungMount::mount).await else { return };
    let bus = fixture.connection().await;
    let alone = Guest::start(&fixture, &bus, 0, "notify", WAIT).await;
    let paused = Guest::start(&fixture, &bus, 0, "pause", WAIT).await;
    let killed = Guest::start(&fixture, &bus, 0, "kill", WAIT).await;
    for (guest, word) in [(&alone, "notify"), (&paused, "pause"), (&killed, "kill")] {
        let owner = owner(&bus, guest.machine.path()).await;
        assert_eq!(owner.on_lost().await.unwrap(), word);
    }
    alone.loses(&bus).await;
    paused.loses(&bus).await;
    within("a machine is paused", async {
        while paused.state() != 'T' {
            manager(&bus).await.n_locks().await.unwrap();
        }
    })
    .await;
    killed.loses(&bus).await;
    within("a machine is killed", gone(pidfd(killed.process.pid()))).await;
    assert!(alone.process.lives() && alone.state() == 'S');
    fixture.daemon().logs("has lost a lock: paused process ").await;
    paused.process.signal(Signal::SIGCONT);
}

/// The on-lost action is known after a restart, by which this lock is lost.
#[tokio::test]
async fn the_on_lost_action_survives_a_restart() {
    let Some((fixture, _far)) = fixture_with(HungMount::mount).await else { return };
    let bus = fixture.connection().await;
    let guest = Guest::start(&fixture, &bus, NOBODY, "kill", WAIT).await;
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let known = owner(&bus, guest.machine.path()).await;
    assert_eq!(known.on_lost().await.unwrap(), "kill");
    let again = lock(&bus, &guest.lock).await;
    within("the lock is there", async { while !again.verified().await.unwrap() {} }).await;
    guest.loses(&bus).await;
    within("the machine is killed", gone(pidfd(guest.process.pid()))).await;
}

/// A user that may kill its own processes may not kill those of root by this.
#[tokio::test]
async fn a_process_of_another_user_is_not_killed() {
    let Some((fixture, _far)) = fixture_with(HungMount::mount).await else { return };
    let program = fixture.dir().join("su-sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    // `NOBODY` itself cannot kill a process whose real user is root, too; which other user that is
    // makes no difference to the service.
    let sh = format!("echo ready; read line; exec {} 1000", program.display());
    let bus = fixture.connection_as(NOBODY).await;
    let guest = Guest::start(&fixture, &bus, NOBODY, "kill", &sh).await;
    drop(guest.process.stdin());
    let status = format!("/proc/{}/status", guest.process.pid());
    within("another user's process", async {
        let runs = || fs::read_to_string(&status).unwrap().contains("Uid:\t65534\t0\t0\t0");
        while !runs() {
            manager(&bus).await.n_locks().await.unwrap();
        }
    })
    .await;
    guest.loses(&bus).await;
    let said = format!(
        "process {} not killed, because it does not belong to uid {NOBODY}",
        guest.process.pid()
    );
    within("it is said", async {
        while !fixture.daemon().stderr().contains(&said) {
            manager(&bus).await.n_locks().await.unwrap();
        }
    })
    .await;
    assert!(guest.process.lives());
    let killed = Command::new("kill").args(["-KILL", &guest.process.pid().to_string()]).status();
    assert!(killed.unwrap().success());
}

#[tokio::test]
async fn a_command_is_killed_with_its_lock() {
    let Some((fixture, _far)) = fixture_with(HungMount::mount).await else { return };
    let disk = fixture.raw_of(0, "disk");
    let mut run = fixture.command("vmlockctl");
    run.args(["run", "--on-lost=kill", "--disk"]).arg(&disk).args(["--", "sleep", "1000"]);
    let mut run = run.spawn().unwrap();
    let behind = fixture.dir().join("behind");
    let bus = fixture.connection().await;
    let held = async {
        loop {
            let locks = manager(&bus).await.list_locks(none()).await.unwrap();
            if let [lock] = &locks[..] {
                let file = PathBuf::from(crate::snapshot::text(lock, "lock-file"));
                return behind.join(file.file_name().unwrap());
            }
        }
    };
    let file = within("the disk is locked", held).await;
    fs::remove_file(file).unwrap();
    let status = within("the command's end", run.wait()).await.unwrap();
    assert_eq!(status.signal(), Some(9));
    let wrong = fixture.run("vmlockctl", &["run", "--on-lost=stop", "--disk", "/x", "--", "true"]);
    let wrong = wrong.await.refused();
    assert!(wrong.contains("possible values: notify, pause, kill"), "{wrong}");
}
