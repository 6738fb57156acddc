//! The service is used while it replaces itself.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use super::Scenario;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, Launch, polkit, program, within};
use crate::fixture::{Daemon, ForeignHolder, LockType};
use crate::methods::none;
use crate::refused_requests::assert_free;

/// Calls succeed, or fail as the name has no owner; granted locks exist, and no others.
#[tokio::test]
async fn ten_in_a_row_under_a_client() {
    let mut scenario = Scenario::set_up().await;
    let bus = scenario.fixture.connection().await;
    let disk = scenario.fixture.raw_of(0, "wanted");
    let client = TestVm::open(&bus, "client").await;
    let stop = AtomicBool::new(false);
    let client = async {
        let (mut granted, mut failed) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            match client.owner.acquire(&[exclusive(&disk)], none()).await {
                Ok(locks) => {
                    granted += 1;
                    ForeignHolder::try_once(&disk, LockType::Ofd, true).unwrap_err();
                    while let Err(error) = client.owner.release(&locks, none()).await {
                        failed += 1;
                        // It may be that only the answer was lost.
                        if error.to_string().contains("NoSuchLock") {
                            break;
                        }
                        assert_clean(&error);
                    }
                }
                Err(error) => {
                    failed += 1;
                    assert_clean(&error);
                }
            }
        }
        (client, granted, failed)
    };
    let replacing = async {
        for number in 0..10 {
            scenario.replace(number % 2 == 0).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((client, granted, failed), ()) = tokio::join!(client, replacing);
    assert!(granted > 5, "only {granted} granted, {failed} failed");
    client.owner.close(none()).await.unwrap();
    assert_free(&disk);
    scenario.compare().await;
    scenario.serves().await;
    scenario.end().await.were_refused();
}

/// The name was away, or its owner went before it answered.
fn assert_clean(error: &zbus::Error) {
    let text = error.to_string();
    let clean = ["ServiceUnknown", "NoReply", "NameHasNoOwner", "activatable", "disconnected"];
    assert!(clean.iter().any(|word| text.contains(word)), "{text}");
}

/// A pending password dialog delays it for a bounded time only.
#[tokio::test]
async fn an_open_polkit_check_is_not_waited_for() {
    let builder = Fixture::builder().polkit(polkit::Choice::Mock).without_daemon();
    let fixture = builder.start().await;
    let installed = fixture.dir().join("vmlockd");
    std::fs::copy(program("vmlockd"), &installed).unwrap();
    let launch = Launch { program: installed, ..fixture.launch() };
    let daemon = Daemon::start(fixture.bus(), launch).await;
    let mut watch = fixture.bus().watch().await;
    let disk = fixture.raw_of(0, "disk");
    let user = fixture.connection_as(NOBODY).await;
    fixture.polkit().mock().answer(Answer::Allow);
    let machine = TestVm::open(&user, "web1").await;
    let opened = fixture.polkit().mock().seen().len();
    for _ in 0..opened {
        fixture.polkit().mock().next_call().await;
    }
    fixture.polkit().mock().answer(Answer::Hang);
    let wanted = [exclusive(&disk)];
    let asked = machine.acquire(&wanted);
    let replaced = async {
        fixture.polkit().mock().next_call().await;
        let first = watch.owned().await;
        daemon.signal(Signal::SIGUSR1);
        watch.owned_by_other_than(&first).await;
        watch.owned_by(daemon.pid()).await;
    };
    let (refused, ()) = tokio::join!(within("an answer", asked), replaced);
    refused.unwrap_err();
    assert_free(&disk);
    fixture.polkit().mock().answer(Answer::Allow);
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
}

/// The bus goes away in between; the new program waits for it as the old one would.
#[tokio::test]
async fn without_a_bus() {
    let mut scenario = Scenario::set_up().await;
    scenario.fixture.bus().stop();
    scenario.daemon.signal(Signal::SIGUSR1);
    scenario.fixture.bus().start().await;
    scenario.bus = scenario.fixture.connection().await;
    scenario.watch = scenario.fixture.bus().watch().await;
    scenario.watch.owned_by(scenario.daemon.pid()).await;
    scenario.says("is re-executing the installed program").await;
    scenario.watch.owned_by(scenario.daemon.pid()).await;
    scenario.compare().await;
    scenario.end().await.were_refused();
}
