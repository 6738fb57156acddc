//! `--quiet` and `help`.

use nix::sys::signal::Signal;

use super::{Tool, str, vmlockctl};
use crate::fixture::Fixture;
use crate::wait::until_waiting;

#[tokio::test]
async fn nothing_is_said_of_success_and_errors_are_said() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "a");
    for line in [
        &["-q", "list"][..],
        &["-q", "owners"],
        &["waiting", "--quiet"],
        &["lock", "-q", "--name", "web1", str(&disk)],
        &["-q", "suspend", "web1"],
        &["-q", "resume", "web1"],
        &["-q", "reexec"],
    ] {
        let ran = vmlockctl(&fixture, line).await;
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line:?}");
        ran.ok();
    }
    let listed = vmlockctl(&fixture, &["-q", "list"]).await.ok();
    assert!(listed.contains(str(&disk)), "{listed}");
    let told = vmlockctl(&fixture, &["-q", "--json", "suspend", "web1"]).await.ok();
    assert!(told.contains(str(&disk)), "{told}");
    vmlockctl(&fixture, &["-q", "resume", "web1"]).await.ok();

    let ran = vmlockctl(&fixture, &["-q", "lock", str(&disk)]).await;
    assert_eq!(ran.status.code(), Some(75), "{ran:#?}");
    assert!(ran.stderr.contains("\"web1\""), "{ran:#?}");
}

#[tokio::test]
async fn a_quiet_wait_is_not_reported() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "a");
    vmlockctl(&fixture, &["lock", "--name", "web1", str(&disk)]).await.ok();
    let line = ["-q", "run", "--wait=2s", "--disk", str(&disk), "--", "true"];
    let quiet = Tool::vmlockctl(&fixture, &line);
    until_waiting(&fixture.connection().await, 1).await;
    // It ends with the refusal, and has said nothing before.
    assert_eq!(quiet.ended().await.code(), Some(75));
    let said = quiet.process.stderr();
    assert!(said.lines().count() == 1 && !said.contains("waiting for"), "{said}");

    let loud = Tool::vmlockctl(&fixture, &["run", "--wait", "--disk", str(&disk), "--", "true"]);
    super::wait::until_said(&fixture, &loud, "waiting for disk").await;
    loud.signal(Signal::SIGINT);
    loud.ended().await;
}

#[tokio::test]
async fn help_needs_no_service() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let all = vmlockctl(&fixture, &["help"]).await.ok();
    assert_eq!(all, vmlockctl(&fixture, &["--help"]).await.ok());
    let run = vmlockctl(&fixture, &["help", "run"]).await.ok();
    assert_eq!(run, vmlockctl(&fixture, &["run", "--help"]).await.ok());
    let ran = vmlockctl(&fixture, &["help", "frobnicate"]).await;
    assert_eq!(ran.status.code(), Some(64), "{ran:#?}");
}
