//! `vmlockctl run`: disks are locked while a command lives, and no longer.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Write as _, pipe};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use futures_util::StreamExt as _;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::PidfdFlags;
use tokio::net::unix::pipe::Receiver;

use super::{LIVES, Tool, fails, json, str, vmlockctl};
use crate::dbus_client::manager;
use crate::fixture::{Fixture, ForeignHolder, LockType, Process, run, within};

fn is_free(image: &Path) -> bool {
    ForeignHolder::try_once(image, LockType::Ofd, true).is_ok()
}

/// Turns readable when the process ends.
fn pidfd(pid: i32) -> Receiver {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    Receiver::from_owned_fd_unchecked(pidfd).unwrap()
}

fn kill9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn disks_are_locked_while_the_command_lives_and_free_when_it_has_ended() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let (shared, name) = (format!("{}:shared", str(&b)), "web1");
    let line = ["--name", name, "--disk", str(&a), "--disk", &shared];
    let (tool, pid) = Tool::holding(&fixture, &line).await;

    let locks = json(&fixture, &["list"]).await;
    let facts = locks.as_array().unwrap().iter().map(|lock| {
        assert_eq!((&lock["name"], &lock["pid"]), (&name.into(), &pid.into()));
        (lock["resource"].as_str().unwrap(), lock["mode"].as_str().unwrap())
    });
    assert_eq!(facts.collect::<Vec<_>>(), [(str(&a), "exclusive"), (str(&b), "shared")]);
    assert!(!is_free(&a) && ForeignHolder::try_once(&b, LockType::Ofd, false).is_ok());
    assert!(tool.finish().await.success());
    assert!(is_free(&a) && is_free(&b));
}

#[tokio::test]
async fn after_run_the_disks_are_free() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    for _ in 0..20 {
        vmlockctl(&fixture, &["run", "--disk", str(&image), "--", "true"]).await.ok();
    }
    // Also if the service has no time for it.
    let (mut tool, pid) = Tool::holding(&fixture, &["--disk", str(&image)]).await;
    let command = pidfd(pid);
    fixture.daemon().signal(Signal::SIGSTOP);
    tool.end_input();
    within("the command ends", command.readable()).await.unwrap();
    vmlockctl(&fixture, &["--version"]).await.ok();
    assert!(tool.process.lives());
    fixture.daemon().signal(Signal::SIGCONT);
    assert!(tool.ended().await.success());
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_second_command_is_not_run_and_the_holder_is_named() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let link = fixture.dir().join("link.qcow2");
    std::fs::hard_link(&image, &link).unwrap();
    let (first, pid) = Tool::holding(&fixture, &["--name", "web1", "--disk", str(&image)]).await;
    let owners = json(&fixture, &["owners"]).await;
    let uuid = owners[0]["uuid"].as_str().unwrap();

    let trace = fixture.dir().join("trace");
    for (path, through) in
        [(&image, "\n".to_owned()), (&link, format!(", through {}\n", str(&image)))]
    {
        let command = ["run", "--disk", str(path), "--", "touch", str(&trace)];
        let said = fails(&fixture, 75, &command).await;
        let begins = format!(
            "vmlockctl: disk {} is locked exclusively by VM \"web1\" ({uuid}, pid {pid}, user \
             root) since ",
            str(path)
        );
        assert!(said.starts_with(&begins) && said.ends_with(&through), "{said}");
    }
    assert!(!trace.exists());
    assert!(first.finish().await.success());
}

#[tokio::test]
async fn the_command_inherits_the_lifeline_and_its_owners_name() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let script = "echo $VMLOCKD_OWNER $VMLOCKD_LIFELINE_FD; ls /proc/$$/fd";
    let line = ["run", "--uuid", uuid, "--disk", str(&image), "--", "sh", "-c", script];
    // Whatever this binary passes on without meaning to is not the tool's fault. Other shells than
    // bash can't name all of it.
    let mut command = fixture.command("bash");
    let close = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; \
                 done; exec \"$@\"";
    command.args(["-c", close, "bash", str(&crate::fixture::program("vmlockctl"))]).args(line);
    let said = run(command).await.ok();
    let words: Vec<&str> = said.split_whitespace().collect();
    let [owner, lifeline, fds @ ..] = &words[..] else { panic!("{said}") };
    assert_eq!(*owner, uuid);
    assert_eq!(BTreeSet::from_iter(fds), BTreeSet::from([&"0", &"1", &"2", lifeline]));
}

#[tokio::test]
async fn the_exit_code_is_the_commands() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let none = fixture.dir().join("none");
    for (code, command) in [
        (0, vec!["true"]),
        (7, vec!["sh", "-c", "exit 7"]),
        (255, vec!["sh", "-c", "exit 255"]),
        (126, vec![str(&image)]),
        (127, vec![str(&none)]),
    ] {
        let line = [vec!["run", "--disk", str(&image), "--"], command].concat();
        let said = fails(&fixture, code, &line).await;
        assert_eq!(
            said.starts_with("vmlockctl: cannot run"),
            (126..=127).contains(&code),
            "{said}"
        );
    }
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_command_that_a_signal_ends_ends_the_tool_by_the_same_signal() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    // One that is caught here, one that Rust programs ignore, one that would dump core, and one that
    // cannot be caught.
    for signal in [Signal::SIGTERM, Signal::SIGPIPE, Signal::SIGSEGV, Signal::SIGKILL] {
        let mut command = fixture.command("vmlockctl");
        let script = format!("kill -{} $$", signal as i32);
        command.args(["run", "--disk", str(&image), "--", "sh", "-c", &script]);
        let status = Tool::start(&fixture, command).ended().await;
        assert_eq!((status.code(), status.signal()), (None, Some(signal as i32)));
        assert!(!status.core_dumped());
        assert!(is_free(&image));
    }
}

#[tokio::test]
async fn a_conflict_has_the_exit_code_that_was_asked_for() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let (_tool, _) = Tool::holding(&fixture, &["--name", "web1", "--disk", str(&image)]).await;
    for line in [&["run", "-E", "5"][..], &["run", "--conflict-exit-code=5", "--wait=20ms"]] {
        let line = [line, &["--disk", str(&image), "--", "true"]].concat();
        let said = fails(&fixture, 5, &line).await;
        assert!(said.contains("VM \"web1\""), "{said}");
    }
    // The code of any other failure stays as it is.
    let none = fixture.dir().join("none");
    fails(&fixture, 66, &["run", "-E", "5", "--disk", str(&none), "--", "true"]).await;
}

#[tokio::test]
async fn signals_are_passed_on() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let script = "for s in USR1 USR2 HUP INT QUIT; do trap \"echo $s\" $s; done
                  trap 'echo TERM; exit 3' TERM; echo ready; while kill -0 $PPID; do read _ || :; done";
    // Nobody's foreground group, so nothing comes from a terminal.
    let mut command = fixture.command("setsid");
    command.arg(crate::fixture::program("vmlockctl"));
    command.args(["run", "--disk", str(&image), "--", "sh", "-c", script]);
    let mut tool = Tool::start(&fixture, command);
    assert_eq!(tool.line().await, "ready");
    for signal in ["USR1", "USR2", "HUP", "INT", "QUIT", "TERM"] {
        tool.signal(format!("SIG{signal}").parse().unwrap());
        // The shell looks at its traps between two commands, so it needs one more to read. It ends
        // with `vmlockctl`, also if the test is killed: at the end of its input, `read` fails at once.
        tool.write_line("");
        assert_eq!(tool.line().await, signal);
    }
    assert_eq!(tool.ended().await.code(), Some(3));
}

#[tokio::test]
async fn signals_of_the_terminal_to_the_command_are_not_forwarded() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let terminal = openpty(None, None).unwrap();
    let script = "trap 'echo INT' INT; trap 'echo QUIT' QUIT; trap 'echo TERM; exit 0' TERM
                  echo ready; while kill -0 $PPID; do read _ || :; done";
    let ((output, stdout), mut command) = (pipe().unwrap(), fixture.command("setsid").into_std());
    command.arg("--ctty").arg(crate::fixture::program("vmlockctl"));
    command.args(["run", "--disk", str(&image), "--", "sh", "-c", script]);
    command.stdin(terminal.slave).stdout(stdout);
    let process = Process::start("vmlockctl", command, &fixture.dir().join("tool.log"));
    let mut tool = Tool { process, input: None, output: Some(BufReader::new(output)) };
    assert_eq!(tool.line().await, "ready");
    let mut keys = File::from(terminal.master);
    for (key, signal) in [(b"\x03\n", "INT"), (b"\x1c\n", "QUIT"), (b"\x03\n", "INT")] {
        keys.write_all(key).unwrap();
        // Were it passed on as well, it would be there twice.
        assert_eq!(tool.line().await, signal);
    }
    tool.signal(Signal::SIGTERM);
    keys.write_all(b"\n").unwrap();
    assert_eq!(tool.line().await, "TERM");
    assert!(tool.ended().await.success());
}

#[tokio::test]
async fn a_command_that_is_killed_leaves_its_disks_free() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let (tool, pid) = Tool::holding(&fixture, &["--disk", str(&image)]).await;
    kill9(pid);
    assert_eq!(tool.ended().await.signal(), Some(9));
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_command_keeps_its_disks_when_the_tool_is_killed() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let manager = manager(&fixture.connection().await).await;
    let mut released = manager.receive_lock_released().await.unwrap();
    let (mut tool, pid) = Tool::holding(&fixture, &["--disk", str(&image)]).await;
    tool.signal(Signal::SIGKILL);
    assert_eq!(tool.ended().await.signal(), Some(9));
    let said = fails(&fixture, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    assert!(said.contains(&format!("pid {pid}")), "{said}");

    tool.end_input();
    let told = within("the release", released.next()).await.unwrap();
    assert_eq!(told.args().unwrap().reason(), "owner-gone");
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_wrapper_that_closes_what_it_inherits_keeps_the_disks() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    // As sudo: it closes its copy of the lifeline, starts another program, and waits for it.
    let script = "eval \"exec $VMLOCKD_LIFELINE_FD<&-\"; sh -c 'echo $$; exec cat'; :";
    let line = ["run", "--disk", str(&image), "--", "bash", "-c", script];
    let mut tool = Tool::vmlockctl(&fixture, &line);
    tool.line().await;
    assert_eq!(
        json(&fixture, &["owners"]).await[0]["anchors"],
        serde_json::json!(["lifeline", "process"])
    );
    fails(&fixture, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn a_daemon_that_the_command_leaves_behind_keeps_the_disks() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let manager = manager(&fixture.connection().await).await;
    let mut released = manager.receive_lock_released().await.unwrap();
    // The shell gives /dev/null to what it puts into the background.
    let script = "exec 9<&0; cat <&9 >/dev/null & echo $!";
    let line = ["run", "--disk", str(&image), "--", "sh", "-c", script];
    let mut tool = Tool::vmlockctl(&fixture, &line);
    tool.line().await;
    assert!(tool.ended().await.success());
    fails(&fixture, 75, &["run", "--disk", str(&image), "--", "true"]).await;
    tool.end_input();
    within("the release", released.next()).await.unwrap();
    assert!(is_free(&image));
}

#[tokio::test]
async fn a_closed_owner_is_reported_and_the_command_lives_on() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let mut command = fixture.command("sh");
    let program = crate::fixture::program("vmlockctl");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", str(&program), "run", "--disk", str(&image)]);
    command.arg("--").args(LIVES);
    let mut tool = Tool::start(&fixture, command);
    tool.line().await;
    let bus = fixture.connection().await;
    let manager = manager(&bus).await;
    let uuid = json(&fixture, &["owners"]).await[0]["uuid"].as_str().unwrap().to_owned();
    let owner = crate::dbus_client::owner(&bus, manager.get_owner(&uuid).await.unwrap()).await;
    owner.close([("force", true.into())].into()).await.unwrap();
    let said = tool.line().await;
    assert!(said.contains("no longer locked"), "{said}");
    tool.write_line("alive");
    assert_eq!(tool.line().await, "alive");
    assert!(tool.finish().await.success());
}

/// QEMU, a package of the distribution.
mod host {
    use super::*;

    #[tokio::test]
    async fn a_qemu_process_is_run() {
        let fixture = Fixture::builder().start().await;
        let image = fixture.image("a.qcow2").await;
        let disk =
            format!("driver=qcow2,node-name=a,file.driver=file,file.filename={}", str(&image));
        // For the fixture to find it by, should this test fail.
        let pidfile = fixture.launch().runtime_dir.join("qemu.pid");
        let qemu = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "none", "-S", "-nodefaults"];
        let rest = ["-nographic", "-qmp", "stdio", "-blockdev", &disk, "-pidfile", str(&pidfile)];
        let mut tool = Tool::vmlockctl(
            &fixture,
            &[&["run", "--disk", str(&image), "--"], &qemu[..], &rest].concat(),
        );
        assert!(tool.line().await.contains("QMP"));

        let said = fails(&fixture, 75, &["run", "--disk", str(&image), "--", "true"]).await;
        assert!(said.contains("VM \"qemu-system-x86_64\""), "{said}");
        tool.write_line("{\"execute\": \"qmp_capabilities\"}");
        tool.write_line("{\"execute\": \"quit\"}");
        assert!(tool.ended().await.success());
        assert!(is_free(&image));
    }
}
