//! The service is used while it replaces itself.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use super::Scene;
use crate::house::user::NOBODY;
use crate::house::{Answer, House, Launch, polkit, program, within};
use crate::house::{Daemon, Kind, Rival};
use crate::machine::{Machine, exclusive};
use crate::methods::none;
use crate::untouched::assert_free;

/// Calls succeed, or fail since nobody has the name; what was granted is there, and nothing else.
#[tokio::test]
async fn ten_in_a_row_under_a_client() {
    let mut scene = Scene::set().await;
    let bus = scene.house.connection().await;
    let disk = scene.house.raw_of(0, "wanted");
    let client = Machine::open(&bus, "client").await;
    let stop = AtomicBool::new(false);
    let client = async {
        let (mut granted, mut failed) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            match client.owner.acquire(&[exclusive(&disk)], none()).await {
                Ok(locks) => {
                    granted += 1;
                    Rival::try_once(&disk, Kind::Ofd, true).unwrap_err();
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
            scene.replace(number % 2 == 0).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((client, granted, failed), ()) = tokio::join!(client, replacing);
    assert!(granted > 5, "only {granted} granted, {failed} failed");
    client.owner.close(none()).await.unwrap();
    assert_free(&disk);
    scene.compare().await;
    scene.serves().await;
    scene.end().await.were_refused();
}

/// The name was away, or its owner went before it answered.
fn assert_clean(error: &zbus::Error) {
    let text = error.to_string();
    let clean = ["ServiceUnknown", "NoReply", "NameHasNoOwner", "activatable", "disconnected"];
    assert!(clean.iter().any(|word| text.contains(word)), "{text}");
}

/// One who is asked for a password for ever does not hold it up for ever.
#[tokio::test]
async fn an_open_question_is_not_waited_for() {
    let builder = House::builder().polkit(polkit::Choice::Mock).without_daemon();
    let house = builder.start().await;
    let installed = house.dir().join("vmlockd");
    std::fs::copy(program("vmlockd"), &installed).unwrap();
    let launch = Launch { program: installed, ..house.launch() };
    let daemon = Daemon::start(house.bus(), launch).await;
    let mut watch = house.bus().watch().await;
    let disk = house.raw_of(0, "disk");
    let user = house.connection_as(NOBODY).await;
    house.polkit().mock().answer(Answer::Allow);
    let machine = Machine::open(&user, "web1").await;
    let opened = house.polkit().mock().seen().len();
    for _ in 0..opened {
        house.polkit().mock().next_call().await;
    }
    house.polkit().mock().answer(Answer::Hang);
    let wanted = [exclusive(&disk)];
    let asked = machine.acquire(&wanted);
    let replaced = async {
        house.polkit().mock().next_call().await;
        let first = watch.owned().await;
        daemon.signal(Signal::SIGUSR1);
        watch.owned_by_other_than(&first).await;
        watch.owned_by(daemon.pid()).await;
    };
    let (refused, ()) = tokio::join!(within("an answer", asked), replaced);
    refused.unwrap_err();
    assert_free(&disk);
    house.polkit().mock().answer(Answer::Allow);
    machine.acquire(&[exclusive(&disk)]).await.unwrap();
}

/// The bus goes away in between; the new program waits for it as the old one would.
#[tokio::test]
async fn without_a_bus() {
    let mut scene = Scene::set().await;
    scene.house.bus().stop();
    scene.daemon.signal(Signal::SIGUSR1);
    scene.house.bus().start().await;
    scene.bus = scene.house.connection().await;
    scene.watch = scene.house.bus().watch().await;
    scene.watch.owned_by(scene.daemon.pid()).await;
    scene.says("is re-executing the installed program").await;
    scene.watch.owned_by(scene.daemon.pid()).await;
    scene.compare().await;
    scene.end().await.were_refused();
}
