//! `--quiet` and `help`.

use nix::sys::signal::Signal;

use super::{Tool, str, vmlockctl};
use crate::house::House;
use crate::wait::until_waiting;

#[tokio::test]
async fn nothing_is_said_of_success_and_errors_are_said() {
    let house = House::builder().start().await;
    let disk = house.raw_of(0, "a");
    for line in [
        &["-q", "list"][..],
        &["-q", "owners"],
        &["waiting", "--quiet"],
        &["lock", "-q", "--name", "web1", str(&disk)],
        &["-q", "suspend", "web1"],
        &["-q", "resume", "web1"],
        &["-q", "reexec"],
    ] {
        let ran = vmlockctl(&house, line).await;
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line:?}");
        ran.ok();
    }
    let listed = vmlockctl(&house, &["-q", "list"]).await.ok();
    assert!(listed.contains(str(&disk)), "{listed}");
    let told = vmlockctl(&house, &["-q", "--json", "suspend", "web1"]).await.ok();
    assert!(told.contains(str(&disk)), "{told}");
    vmlockctl(&house, &["-q", "resume", "web1"]).await.ok();

    let ran = vmlockctl(&house, &["-q", "lock", str(&disk)]).await;
    assert_eq!(ran.status.code(), Some(75), "{ran:#?}");
    assert!(ran.stderr.contains("\"web1\""), "{ran:#?}");
}

#[tokio::test]
async fn a_quiet_wait_is_not_reported() {
    let house = House::builder().start().await;
    let disk = house.raw_of(0, "a");
    vmlockctl(&house, &["lock", "--name", "web1", str(&disk)]).await.ok();
    let line = ["-q", "run", "--wait=2s", "--disk", str(&disk), "--", "true"];
    let quiet = Tool::vmlockctl(&house, &line);
    until_waiting(&house.connection().await, 1).await;
    // It ends with the refusal, and has said nothing before.
    assert_eq!(quiet.ended().await.code(), Some(75));
    let said = quiet.process.stderr();
    assert!(said.lines().count() == 1 && !said.contains("waiting for"), "{said}");

    let loud = Tool::vmlockctl(&house, &["run", "--wait", "--disk", str(&disk), "--", "true"]);
    super::wait::until_said(&house, &loud, "waiting for disk").await;
    loud.signal(Signal::SIGINT);
    loud.ended().await;
}

#[tokio::test]
async fn help_needs_no_service() {
    let house = House::builder().without_daemon().start().await;
    let all = vmlockctl(&house, &["help"]).await.ok();
    assert_eq!(all, vmlockctl(&house, &["--help"]).await.ok());
    let run = vmlockctl(&house, &["help", "run"]).await.ok();
    assert_eq!(run, vmlockctl(&house, &["run", "--help"]).await.ok());
    let ran = vmlockctl(&house, &["help", "frobnicate"]).await;
    assert_eq!(ran.status.code(), Some(64), "{ran:#?}");
}
