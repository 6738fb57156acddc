//! Completion of command lines, as bash asks for it.

use std::time::{Duration, Instant};

use super::{Tool, str};
use crate::fixture::{Fixture, program, run};

/// Makes bash complete a line: loads the script, and calls the function that it registers.
const ASK: &str = r#"
source <(vmlockctl completions bash)
[[ $(complete -p vmlockctl) == *"-F _vmlockctl"* ]] || exit 1
COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
_vmlockctl vmlockctl
[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Returns the completions of a line, and the time that they take.
async fn complete(fixture: &Fixture, line: &str) -> (Vec<String>, Duration) {
    let mut command = fixture.command("bash");
    let tool = program("vmlockctl");
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", str(tool.parent().unwrap())));
    command.args(["-c", ASK, "bash", line]).current_dir(fixture.dir());
    let begun = Instant::now();
    let ran = run(command).await;
    assert_eq!(ran.stderr, "", "{line}");
    (ran.ok().lines().map(str::to_owned).collect(), begun.elapsed())
}

async fn values(fixture: &Fixture, line: &str) -> Vec<String> {
    complete(fixture, line).await.0
}

#[tokio::test]
async fn owners_locks_and_disks_are_completed_where_they_are_expected() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "disk one");
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let line = ["--name", "web1", "--uuid", uuid, "--disk", str(&disk)];
    let (holder, _) = Tool::holding(&fixture, &line).await;
    let lock = super::json(&fixture, &["list"]).await[0]["lock"].as_str().unwrap().to_owned();
    let number = lock.rsplit('/').next().unwrap();

    assert_eq!(values(&fixture, "vmlockctl show we").await, ["web1"]);
    assert_eq!(values(&fixture, "vmlockctl show 4de").await, [uuid]);
    let all = values(&fixture, "vmlockctl --system unlock ").await;
    for word in ["web1", uuid, number, str(&disk), "disk one"] {
        assert!(all.iter().any(|value| value == word), "{word} in {all:?}");
    }
    let beginning = str(&disk).strip_suffix("one").unwrap().replace(' ', "\\ ");
    assert_eq!(values(&fixture, &format!("vmlockctl who {beginning}")).await, [str(&disk)]);
    assert_eq!(values(&fixture, "vmlockctl run --name web2 --disk dis").await, ["disk one"]);
    assert_eq!(values(&fixture, "vmlockctl run --on-lost=pa").await, ["pause"]);
    assert_eq!(values(&fixture, "vmlockctl wai").await, ["waiting"]);
    assert_eq!(values(&fixture, "vmlockctl suspend we").await, ["web1"]);
    assert_eq!(values(&fixture, "vmlockctl help sta").await, ["status"]);
    assert_eq!(values(&fixture, "vmlockctl waiting --sess").await, ["--session"]);
    assert!(holder.finish().await.success());
}

#[tokio::test]
async fn a_service_that_does_not_run_is_not_started() {
    let fixture = Fixture::builder().started_by_bus().start().await;
    fixture.raw_of(0, "disk");
    assert_eq!(values(&fixture, "vmlockctl show di").await, ["disk"]);
    let names = zbus::fdo::DBusProxy::new(&fixture.connection().await).await.unwrap();
    let names = names.list_names().await.unwrap();
    assert!(!names.iter().any(|name| name.as_str() == crate::fixture::NAME), "{names:?}");
}

#[tokio::test]
async fn a_service_that_does_not_answer_delays_a_shell_by_a_second_at_most() {
    let fixture = Fixture::builder().start().await;
    fixture.raw_of(0, "disk");
    fixture.daemon().signal(nix::sys::signal::Signal::SIGSTOP);
    let (values, took) = complete(&fixture, "vmlockctl show di").await;
    fixture.daemon().signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(values, ["disk"]);
    // With the time that the processes themselves take on a busy machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let without = Fixture::builder().without_daemon().start().await;
    assert_eq!(self::values(&without, "vmlockctl show x").await, [""; 0]);
}
