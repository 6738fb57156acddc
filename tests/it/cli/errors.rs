//! Error messages and exit codes of the tool.

use std::fs::Permissions;
use std::io::pipe;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Tool, fails, start_advice, str, vmlockctl};
use crate::fixture::user::{DAEMON, NOBODY};
use crate::fixture::{Answer, Call, Fixture, Process, polkit, within};

/// Answers as polkit does by default.
fn by_default(call: &Call) -> Answer {
    match call.action.as_str() {
        "org.vmlockd1.open-owner" | "org.vmlockd1.acquire-by-descriptor" => Answer::Allow,
        _ => Answer::Challenge,
    }
}

async fn fixture_with_polkit() -> Fixture {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().decide(by_default);
    fixture
}

/// Returns the actions that polkit was asked for, each once, except the harmless one.
fn asked(fixture: &Fixture) -> Vec<String> {
    let mut actions: Vec<_> =
        fixture.polkit().mock().seen().into_iter().map(|call| call.action).collect();
    actions.retain(|action| action != "org.vmlockd1.open-owner");
    actions.dedup();
    actions
}

#[tokio::test]
async fn usage_errors_have_their_own_exit_code() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for line in [
        &[][..],
        &["frobnicate"],
        &["run", "--", "true"],
        &["run", "--disk", "/a"],
        &["lock", "--uuid", "web1", "/a"],
    ] {
        let said = fails(&fixture, 64, line).await;
        assert!(said.contains("Usage: vmlockctl") || said.contains("--help"), "{line:?}: {said}");
    }
    for line in [&["--help"][..], &["run", "--help"], &["--version"]] {
        assert!(vmlockctl(&fixture, line).await.ok().contains("vmlockctl"));
    }
}

#[tokio::test]
async fn a_missing_service_is_reported() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let image = fixture.image("a.qcow2").await;
    for line in [&["list"][..], &["run", "--disk", str(&image), "--", "true"], &["who", "/a"]] {
        let said = fails(&fixture, 69, line).await;
        assert!(said.contains("on the system bus") && said.contains(start_advice()), "{said}");
    }
    let said = fails(&fixture, 69, &["--session", "list"]).await;
    assert!(said.contains("cannot connect to the session bus"), "{said}");
}

#[tokio::test]
async fn a_missing_file_is_not_a_disk() {
    let fixture = Fixture::builder().start().await;
    let none = fixture.dir().join("none");
    for line in [&["lock", str(&none)][..], &["run", "--disk", str(&none), "--", "true"]] {
        assert!(fails(&fixture, 66, line).await.contains("does not exist"));
    }
    let said = fails(&fixture, 1, &["lock", "/dev/null"]).await;
    assert!(said.contains("cannot lock /dev/null"), "{said}");
}

#[tokio::test]
async fn a_user_locks_an_own_disk_without_a_password() {
    let fixture = fixture_with_polkit().await;
    let (mine, other) =
        (fixture.image_of(NOBODY, "mine").await, fixture.image_of(DAEMON, "other").await);
    let run_as = |arguments: Vec<&str>| {
        let mut command = fixture.command_as(NOBODY, "vmlockctl");
        command.arg("--system").args(arguments);
        crate::fixture::run(command)
    };
    let shared = format!("{}:shared", str(&mine));
    for disk in [str(&mine), &shared] {
        run_as(vec!["run", "--disk", disk, "--", "true"]).await.ok();
    }
    run_as(vec!["lock", "--name", "backup", "mine"]).await.ok();
    let locks = super::json(&fixture, &["list"]).await;
    assert_eq!((&locks[0]["resource"], &locks[0]["uid"]), (&str(&mine).into(), &NOBODY.into()));
    fails(&fixture, 75, &["run", "--disk", str(&mine), "--", "true"]).await;
    // By any of its names, as the user owns the disk.
    std::fs::hard_link(&mine, fixture.dir().join("link")).unwrap();
    let said = run_as(vec!["who", "link"]).await.ok();
    assert!(said.contains("VM \"backup\"") && said.contains("user nobody"), "{said}");
    run_as(vec!["unlock", "./link"]).await.ok();
    assert_eq!(asked(&fixture), ["org.vmlockd1.acquire-by-descriptor"]);

    let refused = run_as(vec!["run", "--disk", str(&other), "--", "true"]).await;
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    assert_eq!(super::json(&fixture, &["owners"]).await, json!([]));
    let last = fixture.polkit().mock().seen().pop().unwrap();
    assert_eq!(last.action, "org.vmlockd1.acquire-by-name");
    assert!(!last.interactive(), "standard input is no terminal");
    let terminal = openpty(None, None).unwrap();
    let mut command = fixture.command_as(NOBODY, "vmlockctl");
    command.args(["--system", "resolve", str(&other)]).stdin(terminal.slave);
    assert_eq!(crate::fixture::run(command).await.status.code(), Some(77));
    assert!(fixture.polkit().mock().seen().pop().unwrap().interactive(), "now it is one");
}

#[tokio::test]
async fn a_command_that_becomes_another_user_is_bound_without_a_password() {
    let fixture = fixture_with_polkit().await;
    let image = fixture.image_of(NOBODY, "a.qcow2").await;
    // Root from its first instruction, as sudo is.
    let sudo = fixture.dir().join("sudo");
    std::fs::copy("/bin/cat", &sudo).unwrap();
    std::fs::set_permissions(&sudo, Permissions::from_mode(0o4755)).unwrap();
    let mut command = fixture.command_as(NOBODY, "vmlockctl");
    command.args(["--system", "run", "--disk", str(&image), "--", str(&sudo)]);
    let mut tool = Tool::start(&fixture, command);
    tool.write_line("here");
    assert_eq!(tool.line().await, "here");
    let owners = super::json(&fixture, &["owners"]).await;
    assert_eq!(owners[0]["anchors"], json!(["lifeline", "process"]));
    assert_eq!(asked(&fixture), ["org.vmlockd1.acquire-by-descriptor"]);
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn more_disks_than_a_message_carries_are_asked_for_by_name() {
    let fixture = fixture_with_polkit().await;
    fixture.polkit().mock().answer(Answer::Allow);
    let disks: Vec<String> =
        (0..20).map(|n| str(&fixture.raw_of(NOBODY, &n.to_string())).to_owned()).collect();
    let mut command = fixture.command_as(NOBODY, "vmlockctl");
    command.args(["--system", "lock", "--name", "many"]).args(&disks);
    crate::fixture::run(command).await.ok();
    assert_eq!(super::json(&fixture, &["list"]).await.as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn a_user_has_an_own_service_on_the_session_bus() {
    let fixture = Fixture::builder().session_of(NOBODY).start().await;
    let image = fixture.image_of(NOBODY, "a.qcow2").await;
    let said = fixture.run_as(NOBODY, "vmlockctl", &["lock", str(&image)]).await.ok();
    assert!(said.contains(str(&image)), "{said}");
    let refused =
        fixture.run_as(NOBODY, "vmlockctl", &["run", "--disk", "a.qcow2", "--", "true"]).await;
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
}

#[tokio::test]
async fn an_interrupted_request_leaves_nothing_behind() {
    let fixture = fixture_with_polkit().await;
    let mock = fixture.polkit().mock();
    let image = fixture.image_of(DAEMON, "a.qcow2").await;
    for verb in [&["run", "--disk"][..], &["lock"]] {
        mock.decide(|call: &Call| match by_default(call) {
            Answer::Challenge => Answer::Hang,
            answer => answer,
        });
        let mut command = fixture.command_as(NOBODY, "vmlockctl");
        command.arg("--system").args(verb).arg(&image);
        if verb[0] == "run" {
            command.args(["--", "true"]);
        }
        let tool = Tool::start(&fixture, command);
        while mock.next_call().await.action != "org.vmlockd1.acquire-by-name" {}
        tool.signal(Signal::SIGINT);
        let status = tool.ended().await;
        assert_eq!((status.code(), status.signal()), (None, Some(2)));
        mock.next_cancellation().await;
        assert_eq!(super::json(&fixture, &["owners"]).await, json!([]));
    }
}

#[tokio::test]
async fn locks_granted_after_the_time_limit_are_released() {
    let fixture = fixture_with_polkit().await;
    let mock = fixture.polkit().mock();
    let image = fixture.image_of(NOBODY, "a.qcow2").await;
    mock.decide(|call: &Call| match call.action.as_str() {
        "org.vmlockd1.open-owner" => Answer::Hang,
        _ => Answer::Allow,
    });
    let mut command = fixture.command_as(NOBODY, "vmlockctl");
    command.args(["--system", "lock", str(&image)]);
    let tool = Tool::start(&fixture, command);
    let call = mock.next_call().await;
    tool.signal(Signal::SIGINT);
    mock.release(&call, Answer::Allow);
    assert_eq!(tool.ended().await.signal(), Some(2));
    assert_eq!(super::json(&fixture, &["owners"]).await, json!([]));
}

#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let fixture = Fixture::builder().start().await;
    for (n, words) in ["completions bash", "list --json", "--help"].into_iter().enumerate() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = fixture.command("vmlockctl").into_std();
        command.args(words.split(' ')).stdout(writer);
        let tool = Process::start(words, command, &fixture.dir().join(format!("stderr{n}")));
        assert!(within(words, tool.ended()).await.success(), "{words}");
        assert_eq!(tool.stderr(), "", "{words}");
    }
}

#[tokio::test]
async fn shells_are_given_completions() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = vmlockctl(&fixture, &["completions", shell]).await.ok();
        assert!(
            script.contains("_VMLOCKCTL_COMPLETE") && script.contains(shell),
            "{shell}: {script}"
        );
    }
}
