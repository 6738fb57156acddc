//! `--wait`: who waits is told for whom, ends when he is told to, and outlasts the service.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::{LIVES, Tool, fails, str, vmlockctl};
use crate::house::user::NOBODY;
use crate::house::{Answer, Call, House, NAME, NameWatch, polkit, within};
use crate::machine::{Machine, exclusive, manager};
use crate::untouched::assert_free;
use crate::wait::until_waiting;

/// A disk that machine web1 holds.
pub(super) struct Scene {
    pub(super) house: House,
    pub(super) disk: PathBuf,
    holder: Tool,
    pub(super) pid: i32,
}

impl Scene {
    pub(super) async fn set() -> Self {
        let house = House::builder().start().await;
        let disk = house.raw_of(0, "disk");
        let (holder, pid) = Tool::holding(&house, &["--name", "web1", "--disk", str(&disk)]).await;
        Self { house, disk, holder, pid }
    }

    /// Starts a command that waits; returns once it does.
    async fn wait(&self, line: &[&str]) -> Tool {
        let tool = Tool::vmlockctl(&self.house, line);
        until_waiting(&self.house.connection().await, 1).await;
        tool
    }

    /// The end of who waited in vain: nothing of him is left, and the disk is as it was.
    pub(super) async fn is_as_before(&self) {
        until_waiting(&self.house.connection().await, 0).await;
        let owners = async {
            loop {
                let owners = super::json(&self.house, &["owners"]).await;
                if owners.as_array().unwrap().len() == 1 {
                    return owners;
                }
            }
        };
        assert_eq!(within("one owner", owners).await[0]["name"], "web1");
    }

    /// The holder ends; afterwards the disk is another's, or free.
    pub(super) async fn release(self) -> (House, PathBuf) {
        assert!(self.holder.finish().await.success());
        (self.house, self.disk)
    }
}

/// Returns once a program has complained of something with these words.
pub(super) async fn until_said(house: &House, tool: &Tool, words: &str) {
    let manager = manager(&house.connection().await).await;
    let said = async {
        while !tool.process.stderr().contains(words) {
            manager.n_waiting().await.unwrap();
        }
    };
    within(words, said).await;
}

#[tokio::test]
async fn a_command_is_run_when_its_disks_are_free_and_one_line_says_for_whom_it_waits() {
    let scene = Scene::set().await;
    let line = ["run", "--wait", "--disk", str(&scene.disk), "--", "sh", "-c", "echo go; exit 7"];
    let mut tool = scene.wait(&line).await;
    let words = format!(
        "vmlockctl: waiting for disk {}: locked exclusively by VM \"web1\" (pid {}, user root) \
         since ",
        str(&scene.disk),
        scene.pid
    );
    until_said(&scene.house, &tool, &words).await;
    let (_house, disk) = scene.release().await;
    assert_eq!(tool.line().await, "go");
    assert_eq!(tool.ended().await.code(), Some(7));
    assert_eq!(tool.process.stderr().lines().count(), 1);
    assert_free(&disk);
}

#[tokio::test]
async fn lock_waits_too_and_waiting_lists_both() {
    let scene = Scene::set().await;
    let disk = str(&scene.disk);
    let ran = vmlockctl(&scene.house, &["lock", "--wait=0", disk]).await;
    assert_eq!(ran.status.code(), Some(75), "{ran:#?}");
    let mut lock = scene.wait(&["lock", "--name", "backup", "--wait=1h 30min", disk]).await;
    let mut run = Tool::vmlockctl(
        &scene.house,
        &["run", "--name", "web2", "--wait=infinity", "--disk", disk, "--", "echo", "go"],
    );
    until_waiting(&scene.house.connection().await, 2).await;
    let rows = super::json(&scene.house, &["waiting"]).await;
    let of = |key: &str| (rows[0][key].clone(), rows[1][key].clone());
    assert_eq!(of("name"), ("backup".into(), "web2".into()));
    assert!(rows[0]["ticket"].as_u64() < rows[1]["ticket"].as_u64(), "{rows}");
    assert_eq!(of("resource"), (disk.into(), disk.into()));
    assert_eq!(of("mode"), ("exclusive".into(), "exclusive".into()));
    let said = vmlockctl(&scene.house, &["waiting"]).await.ok();
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).collect();
    let columns = ["PLACE", "VM", "OWNER", "USER", "PID", "MODE", "RESOURCE", "SINCE"];
    assert_eq!(lines[0], columns);
    assert_eq!((lines[1][0], lines[1][1], lines[1][6]), ("1", "backup", disk));
    assert_eq!((lines[2][0], lines[2][1], lines[2][3]), ("2", "web2", "root"));

    let (house, disk) = scene.release().await;
    lock.line().await;
    assert!(lock.line().await.contains("RESOURCE") && lock.line().await.contains(str(&disk)));
    assert!(lock.ended().await.success());
    vmlockctl(&house, &["unlock", "backup"]).await.ok();
    assert_eq!(run.line().await, "go");
    assert!(run.ended().await.success());
    let ran = vmlockctl(&house, &["waiting"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "no requests wait\n"));
}

#[tokio::test]
async fn a_wait_in_vain_ends_as_a_refusal_does() {
    let scene = Scene::set().await;
    let trace = scene.house.dir().join("trace");
    let disk = str(&scene.disk);
    for line in [
        &["run", "--wait=20ms", "--disk", disk, "--", "touch", str(&trace)][..],
        &["lock", "--wait=20ms", disk],
    ] {
        let said = fails(&scene.house, 75, line).await;
        let who = format!("disk {disk} is locked exclusively by VM \"web1\"");
        assert!(said.contains("timed out after 0.0 s") && said.contains(&who), "{said}");
    }
    scene.is_as_before().await;
    assert!(!trace.exists());
}

#[tokio::test]
async fn a_signal_ends_a_wait_and_nothing_is_left_of_it() {
    let scene = Scene::set().await;
    let disk = str(&scene.disk);
    for (signal, line) in [
        (Signal::SIGINT, &["run", "--wait", "--disk", disk, "--", "true"][..]),
        (Signal::SIGTERM, &["run", "--wait=1h", "--disk", disk, "--", "true"]),
        (Signal::SIGINT, &["lock", "--wait=1h", disk]),
        (Signal::SIGTERM, &["lock", "--wait", disk]),
    ] {
        let tool = scene.wait(line).await;
        tool.signal(signal);
        assert_eq!(tool.ended().await.signal(), Some(signal as i32), "{line:?}");
        scene.is_as_before().await;
    }
    // No time to say goodbye.
    let tool = scene.wait(&["run", "--wait", "--disk", disk, "--", "true"]).await;
    tool.signal(Signal::SIGKILL);
    tool.ended().await;
    scene.is_as_before().await;
    let (_house, disk) = scene.release().await;
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
    let scene = Scene::set().await;
    let disk = str(&scene.disk);
    let mut run = scene.wait(&["run", "--wait", "--disk", disk, "--", "echo", "go"]).await;
    until_said(&scene.house, &run, "waiting for disk").await;
    let mut lock = Tool::vmlockctl(&scene.house, &["lock", "--wait=1h", "--name", "backup", disk]);
    let bus = scene.house.connection().await;
    until_waiting(&bus, 2).await;
    for change in [Change::Killed, Change::Ended, Change::Replaced] {
        let daemon = scene.house.daemon();
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
    let (house, disk) = scene.release().await;
    // Who has asked again first is first: either.
    let locked = async {
        lock.line().await;
        lock.line().await;
        assert!(lock.line().await.contains(str(&disk)));
        assert!(lock.ended().await.success());
        vmlockctl(&house, &["unlock", "backup"]).await.ok();
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
async fn a_wait_for_a_service_that_stays_away_is_in_vain_too() {
    let scene = Scene::set().await;
    let line = ["run", "--wait=1s", "--disk", str(&scene.disk), "--", "true"];
    let tool = scene.wait(&line).await;
    scene.house.daemon().terminate().await;
    assert_eq!(tool.ended().await.code(), Some(69));
    assert!(tool.process.stderr().contains("is stopping or being re-executed"));
    scene.house.daemon().start_again().await;
    scene.is_as_before().await;
}

#[tokio::test]
async fn who_shows_his_disk_waits_and_is_asked_for_no_password() {
    let house = House::builder().polkit(polkit::Choice::Mock).start().await;
    house.polkit().mock().decide(|call: &Call| match call.action.as_str() {
        "org.vmlockd1.open-owner" | "org.vmlockd1.acquire-by-descriptor" => Answer::Allow,
        _ => Answer::Challenge,
    });
    let disk = house.raw_of(NOBODY, "disk");
    let bus = house.connection().await;
    let web1 = Machine::open(&bus, "web1").await;
    let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let mut command = house.command_as(NOBODY, "vmlockctl");
    command.args(["--system", "run", "--wait", "--disk", "disk", "--"]).args(LIVES);
    let mut tool = Tool::start(&house, command);
    until_said(&house, &tool, "locked exclusively by VM \"web1\" (user root) since ").await;
    web1.release(&locks).await.unwrap();
    tool.line().await;
    assert_eq!(super::json(&house, &["list"]).await[0]["uid"], NOBODY);
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn what_is_no_duration_is_said() {
    let house = House::builder().without_daemon().start().await;
    for span in ["--wait=soon", "--wait=", "--wait=1 fortnight", "--wait=99999999999999999999"] {
        let said = fails(&house, 64, &["lock", span, str(Path::new("/a"))]).await;
        assert!(said.contains("--wait") && said.contains("--help"), "{said}");
    }
}

#[tokio::test]
async fn a_disk_that_is_replaced_or_deleted_meanwhile_is_followed_by_its_name() {
    let house = House::builder().polkit(polkit::Choice::Mock).start().await;
    house.polkit().mock().decide(|call: &Call| match call.action.as_str() {
        "org.vmlockd1.acquire-by-name" => Answer::Deny,
        _ => Answer::Allow,
    });
    for user in [0, NOBODY] {
        let held = house.raw_of(user, &format!("held-{user}"));
        let gone = house.raw_of(user, &format!("gone-{user}"));
        let bus = house.connection().await;
        let web1 = Machine::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&held), exclusive(&gone)]).await.unwrap();
        // An ordinary user shows the file that it has opened.
        let start = |disk: &Path| {
            let mut command = house.command_as(user, "vmlockctl");
            command.args(["--system", "run", "--wait", "--disk", str(disk), "--"]).args(LIVES);
            Tool::start(&house, command)
        };
        let mut replaced = start(&held);
        until_waiting(&bus, 1).await;
        let deleted = start(&gone);
        until_waiting(&bus, 2).await;
        let new = house.raw_of(user, &format!("new-{user}"));
        std::fs::rename(&new, &held).unwrap();
        std::fs::remove_file(&gone).unwrap();
        // The old disks stay locked.
        replaced.line().await;
        let locks = super::json(&house, &["list"]).await;
        let inode = std::fs::metadata(&held).unwrap().ino();
        let had = locks.as_array().unwrap().iter().find(|lock| lock["name"] == "sh").unwrap();
        assert!(had["identity"].as_str().unwrap().ends_with(&format!(":{inode}")), "{had}");
        assert_eq!(deleted.ended().await.code(), Some(66), "{}", deleted.process.stderr());
        assert!(deleted.process.stderr().contains("does not exist"));
        assert!(replaced.finish().await.success());
        until_waiting(&bus, 0).await;
    }
}
