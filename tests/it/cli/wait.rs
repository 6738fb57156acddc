//! `--wait`: a waiter is told the holder, ends on request, and survives the service.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::{LIVES, Tool, fails, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, manager};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Call, Fixture, NAME, NameWatch, polkit, within};
use crate::refused_requests::assert_free;
use crate::wait::until_waiting;

/// A disk that machine web1 holds.
pub(super) struct Scenario {
    pub(super) fixture: Fixture,
    pub(super) disk: PathBuf,
    holder: Tool,
    pub(super) pid: i32,
}

impl Scenario {
    pub(super) async fn set_up() -> Self {
        let fixture = Fixture::builder().start().await;
        let disk = fixture.raw_of(0, "disk");
        let (holder, pid) =
            Tool::holding(&fixture, &["--name", "web1", "--disk", str(&disk)]).await;
        Self { fixture, disk, holder, pid }
    }

    /// Starts a command that waits; returns once it does.
    async fn wait(&self, line: &[&str]) -> Tool {
        let tool = Tool::vmlockctl(&self.fixture, line);
        until_waiting(&self.fixture.connection().await, 1).await;
        tool
    }

    /// Checks that an unsuccessful waiter leaves nothing behind, and that the disk is unchanged.
    pub(super) async fn is_as_before(&self) {
        until_waiting(&self.fixture.connection().await, 0).await;
        let owners = async {
            loop {
                let owners = super::json(&self.fixture, &["owners"]).await;
                if owners.as_array().unwrap().len() == 1 {
                    return owners;
                }
            }
        };
        assert_eq!(within("one owner", owners).await[0]["name"], "web1");
    }

    /// The holder ends; afterwards the disk is another's, or free.
    pub(super) async fn release(self) -> (Fixture, PathBuf) {
        assert!(self.holder.finish().await.success());
        (self.fixture, self.disk)
    }
}

/// Returns once a program has complained of something with these words.
pub(super) async fn until_said(fixture: &Fixture, tool: &Tool, words: &str) {
    let manager = manager(&fixture.connection().await).await;
    let said = async {
        while !tool.process.stderr().contains(words) {
            manager.n_waiting().await.unwrap();
        }
    };
    within(words, said).await;
}

#[tokio::test]
async fn a_command_is_run_when_its_disks_are_free_and_one_line_names_the_holder() {
    let scenario = Scenario::set_up().await;
    let line =
        ["run", "--wait", "--disk", str(&scenario.disk), "--", "sh", "-c", "echo go; exit 7"];
    let mut tool = scenario.wait(&line).await;
    let words = format!(
        "vmlockctl: waiting for disk {}: locked exclusively by VM \"web1\" (pid {}, user root) \
         since ",
        str(&scenario.disk),
        scenario.pid
    );
    until_said(&scenario.fixture, &tool, &words).await;
    let (_house, disk) = scenario.release().await;
    assert_eq!(tool.line().await, "go");
    assert_eq!(tool.ended().await.code(), Some(7));
    assert_eq!(tool.process.stderr().lines().count(), 1);
    assert_free(&disk);
}

#[tokio::test]
async fn lock_waits_too_and_waiting_lists_both() {
    let scenario = Scenario::set_up().await;
    let disk = str(&scenario.disk);
    let ran = vmlockctl(&scenario.fixture, &["lock", "--wait=0", disk]).await;
    assert_eq!(ran.status.code(), Some(75), "{ran:#?}");
    let mut lock = scenario.wait(&["lock", "--name", "backup", "--wait=1h 30min", disk]).await;
    let mut run = Tool::vmlockctl(
        &scenario.fixture,
        &["run", "--name", "web2", "--wait=infinity", "--disk", disk, "--", "echo", "go"],
    );
    until_waiting(&scenario.fixture.connection().await, 2).await;
    let rows = super::json(&scenario.fixture, &["waiting"]).await;
    let of = |key: &str| (rows[0][key].clone(), rows[1][key].clone());
    assert_eq!(of("name"), ("backup".into(), "web2".into()));
    assert!(rows[0]["ticket"].as_u64() < rows[1]["ticket"].as_u64(), "{rows}");
    assert_eq!(of("resource"), (disk.into(), disk.into()));
    assert_eq!(of("mode"), ("exclusive".into(), "exclusive".into()));
    let said = vmlockctl(&scenario.fixture, &["waiting"]).await.ok();
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).collect();
    let columns = ["PLACE", "VM", "OWNER", "USER", "PID", "MODE", "RESOURCE", "SINCE"];
    assert_eq!(lines[0], columns);
    assert_eq!((lines[1][0], lines[1][1], lines[1][6]), ("1", "backup", disk));
    assert_eq!((lines[2][0], lines[2][1], lines[2][3]), ("2", "web2", "root"));

    let (fixture, disk) = scenario.release().await;
    lock.line().await;
    assert!(lock.line().await.contains("RESOURCE") && lock.line().await.contains(str(&disk)));
    assert!(lock.ended().await.success());
    vmlockctl(&fixture, &["unlock", "backup"]).await.ok();
    assert_eq!(run.line().await, "go");
    assert!(run.ended().await.success());
    let ran = vmlockctl(&fixture, &["waiting"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "no requests wait\n"));
}

#[tokio::test]
async fn a_wait_that_times_out_ends_as_a_refusal() {
    let scenario = Scenario::set_up().await;
    let trace = scenario.fixture.dir().join("trace");
    let disk = str(&scenario.disk);
    for line in [
        &["run", "--wait=20ms", "--disk", disk, "--", "touch", str(&trace)][..],
        &["lock", "--wait=20ms", disk],
    ] {
        let said = fails(&scenario.fixture, 75, line).await;
        let who = format!("disk {disk} is locked exclusively by VM \"web1\"");
        assert!(said.contains("timed out after 0.0 s") && said.contains(&who), "{said}");
    }
    scenario.is_as_before().await;
    assert!(!trace.exists());
}

#[tokio::test]
async fn a_signal_ends_a_wait_and_nothing_is_left_of_it() {
    let scenario = Scenario::set_up().await;
    let disk = str(&scenario.disk);
    for (signal, line) in [
        (Signal::SIGINT, &["run", "--wait", "--disk", disk, "--", "true"][..]),
        (Signal::SIGTERM, &["run", "--wait=1h", "--disk", disk, "--", "true"]),
        (Signal::SIGINT, &["lock", "--wait=1h", disk]),
        (Signal::SIGTERM, &["lock", "--wait", disk]),
    ] {
        let tool = scenario.wait(line).await;
        tool.signal(signal);
        assert_eq!(tool.ended().await.signal(), Some(signal as i32), "{line:?}");
        scenario.is_as_before().await;
    }
    // No time to say goodbye.
    let tool = scenario.wait(&["run", "--wait", "--disk", disk, "--", "true"]).await;
    tool.signal(Signal::SIGKILL);
    tool.ended().await;
    scenario.is_as_before().await;
    let (_house, disk) = scenario.release().await;
    assert_free(&disk);
}

/// How a service goes and comes back.
#[derive(Debug)]
enum Change {
    Killed,
    Ended,
    Replaced,
}

#[tokio::test]
async fn a_wait_outlasts_the_service() {
    let scenario = Scenario::set_up().await;
    let disk = str(&scenario.disk);
    let mut run = scenario.wait(&["run", "--wait", "--disk", disk, "--", "echo", "go"]).await;
    until_said(&scenario.fixture, &run, "waiting for disk").await;
    let mut lock =
        Tool::vmlockctl(&scenario.fixture, &["lock", "--wait=1h", "--name", "backup", disk]);
    let bus = scenario.fixture.connection().await;
    until_waiting(&bus, 2).await;
    for change in [Change::Killed, Change::Ended, Change::Replaced] {
        let daemon = scenario.fixture.daemon();
        match change {
            Change::Killed => daemon.kill9().await,
            Change::Ended => drop(daemon.terminate().await),
            Change::Replaced => {
                let mut name = NameWatch::new(&bus, NAME).await;
                let first = name.owned().await;
                daemon.signal(Signal::SIGUSR1);
                name.owned_by_other_than(&first).await;
            }
        }
        if !daemon.lives() {
            daemon.start_again().await;
        }
        until_waiting(&bus, 2).await;
    }
    assert!(run.process.lives() && lock.process.lives());
    let (fixture, disk) = scenario.release().await;
    // The first one to repeat its request is first: either.
    let locked = async {
        lock.line().await;
        lock.line().await;
        assert!(lock.line().await.contains(str(&disk)));
        assert!(lock.ended().await.success());
        vmlockctl(&fixture, &["unlock", "backup"]).await.ok();
    };
    let ((), line) = tokio::join!(locked, run.line());
    assert_eq!(line, "go");
    assert!(run.ended().await.success());
    // Both complain into one file, each of one thing at most.
    let said = run.process.stderr();
    // With the killed service its end of the holder's lifeline went, and the holder may say so.
    let own = said.lines().filter(|line| !line.contains("the disks are no longer locked"));
    assert!(own.count() <= 2, "{said}");
    assert_free(&disk);
}

#[tokio::test]
async fn a_wait_for_a_stopped_service_times_out() {
    let scenario = Scenario::set_up().await;
    let line = ["run", "--wait=1s", "--disk", str(&scenario.disk), "--", "true"];
    let tool = scenario.wait(&line).await;
    scenario.fixture.daemon().terminate().await;
    assert_eq!(tool.ended().await.code(), Some(69));
    assert!(tool.process.stderr().contains("is stopping or being re-executed"));
    scenario.fixture.daemon().start_again().await;
    scenario.is_as_before().await;
}

#[tokio::test]
async fn an_open_disk_is_waited_for_without_a_password() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().decide(|call: &Call| match call.action.as_str() {
        "org.vmlockd1.open-owner" | "org.vmlockd1.acquire-by-descriptor" => Answer::Allow,
        _ => Answer::Challenge,
    });
    let disk = fixture.raw_of(NOBODY, "disk");
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let mut command = fixture.command_as(NOBODY, "vmlockctl");
    command.args(["--system", "run", "--wait", "--disk", "disk", "--"]).args(LIVES);
    let mut tool = Tool::start(&fixture, command);
    until_said(&fixture, &tool, "locked exclusively by VM \"web1\" (user root) since ").await;
    web1.release(&locks).await.unwrap();
    tool.line().await;
    assert_eq!(super::json(&fixture, &["list"]).await[0]["uid"], NOBODY);
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn an_invalid_duration_is_refused() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for span in ["--wait=soon", "--wait=", "--wait=1 fortnight", "--wait=99999999999999999999"] {
        let said = fails(&fixture, 64, &["lock", span, str(Path::new("/a"))]).await;
        assert!(said.contains("--wait") && said.contains("--help"), "{said}");
    }
}

#[tokio::test]
async fn a_disk_that_is_replaced_or_deleted_meanwhile_is_followed_by_its_name() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().decide(|call: &Call| match call.action.as_str() {
        "org.vmlockd1.acquire-by-name" => Answer::Deny,
        _ => Answer::Allow,
    });
    for user in [0, NOBODY] {
        let held = fixture.raw_of(user, &format!("held-{user}"));
        let gone = fixture.raw_of(user, &format!("gone-{user}"));
        let bus = fixture.connection().await;
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&held), exclusive(&gone)]).await.unwrap();
        // An ordinary user shows the file that it has opened.
        let start = |disk: &Path| {
            let mut command = fixture.command_as(user, "vmlockctl");
            command.args(["--system", "run", "--wait", "--disk", str(disk), "--"]).args(LIVES);
            Tool::start(&fixture, command)
        };
        let mut replaced = start(&held);
        until_waiting(&bus, 1).await;
        let deleted = start(&gone);
        until_waiting(&bus, 2).await;
        let new = fixture.raw_of(user, &format!("new-{user}"));
        std::fs::rename(&new, &held).unwrap();
        std::fs::remove_file(&gone).unwrap();
        // The old disks stay locked.
        replaced.line().await;
        let locks = super::json(&fixture, &["list"]).await;
        let inode = std::fs::metadata(&held).unwrap().ino();
        let had = locks.as_array().unwrap().iter().find(|lock| lock["name"] == "sh").unwrap();
        assert!(had["identity"].as_str().unwrap().ends_with(&format!(":{inode}")), "{had}");
        assert_eq!(deleted.ended().await.code(), Some(66), "{}", deleted.process.stderr());
        assert!(deleted.process.stderr().contains("does not exist"));
        assert!(replaced.finish().await.success());
        until_waiting(&bus, 0).await;
    }
}
