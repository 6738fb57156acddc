//! Inspectors are units of their own: none that hangs is waited for.

use std::collections::HashMap;

use nix::sys::signal::Signal;

use crate::dbus_client::{exclusive, manager, owner};
use crate::fixture::within;
use crate::host::open_files::locker;
use crate::nspawn::{Host, MainProcess, Tree};

/// The inspector that answers next.
async fn inspector(host: &Host, but: &[MainProcess]) -> MainProcess {
    let others = || host.inspectors().into_iter().find(|inspector| !but.contains(inspector));
    let found = async {
        loop {
            match others() {
                Some(inspector) => return inspector,
                None => tokio::task::yield_now().await,
            }
        }
    };
    within("an inspector", found).await
}

/// Stops the inspector that answers next, as one is stopped that waits for a process for ever.
async fn hang(host: &Host, but: &[MainProcess]) -> MainProcess {
    let inspector = inspector(host, but).await;
    inspector.signal(Signal::SIGSTOP);
    inspector
}

async fn an_inspector_that_hangs_is_left_behind(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    let image = host.image("a.img");
    let path = image.to_str().unwrap();
    // A busy machine may take long to start an inspector.
    host.drop_in("patience", "[Service]\nEnvironment=VMLOCKD_INSPECTOR_MS=10000\n").await;
    let main = host.enable().await;
    let words = locker(37, path);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut perl = host.spawn_as("root", &words);
    let holder = format!("(perl, pid {}, user root)", perl.line().await);
    let run = ["vmlockctl", "run", "--disk", path, "--", "true"];

    // Another one takes its place.
    let late = hang(&host, &[]).await;
    let ran = host.run(&run).await;
    assert!(ran.status.code() == Some(75) && ran.stderr.contains(&holder), "{ran:?}");
    let said = host.run(&["vmlockctl", "who", path]).await.ok();
    assert!(said.contains(&holder), "{said}");

    // Neither a restart nor a stop waits for one that hangs, and both leave it where it is.
    let first = hang(&host, &[late]).await;
    host.systemctl(&["restart", "vmlockd"]).await;
    let restarted = host.main().await;
    assert_ne!(restarted, main);
    assert!(host.inspectors().contains(&first));
    let ran = host.run(&run).await;
    assert!(ran.status.code() == Some(75) && ran.stderr.contains(&holder), "{ran:?}");
    let second = hang(&host, &[late, first]).await;
    host.systemctl(&["stop", "vmlockd"]).await;
    assert_eq!(host.property("ActiveState").await, "inactive");
    assert_eq!(host.property("Result").await, "success");
    assert!([first, second].iter().all(|hung| host.inspectors().contains(hung)));
    assert!(!host.at("/run/vmlockd-inspector.sock").exists());

    host.systemctl(&["start", "vmlockd"]).await;
    let said = host.run(&["vmlockctl", "who", path]).await.ok();
    assert!(said.contains(&holder), "{said}");
    // One that does not hang ends with the service.
    let third = inspector(&host, &[late, first, second]).await;
    host.systemctl(&["stop", "vmlockd"]).await;
    let gone = async {
        while host.inspectors().contains(&third) {
            tokio::task::yield_now().await;
        }
    };
    within("the inspector ends", gone).await;
    within("perl ends", perl.finish()).await;
}

#[tokio::test]
async fn an_inspector_that_hangs_is_left_behind_here() {
    an_inspector_that_hangs_is_left_behind(Tree::Own).await;
}

#[tokio::test]
async fn an_inspector_that_hangs_is_left_behind_on_trixie() {
    an_inspector_that_hangs_is_left_behind(Tree::Release("trixie")).await;
}

/// Locks without a store are found again by their process and its lifeline, which the service
/// itself does not see: also where `/proc` hides processes of others.
async fn locks_without_a_store_are_found_again(tree: Tree) {
    let Some(host) = Host::boot(tree).await else { return };
    let images = [host.image("a.img"), host.image("b.img")];
    let [a, b] = images.each_ref().map(|image| image.to_str().unwrap());
    for path in [a, b] {
        host.run(&["chown", "games", path]).await.ok();
    }
    host.run_outside_units(&["mount", "-o", "remount,hidepid=invisible", "/proc"]).await.ok();
    host.drop_in("store", "[Service]\nFileDescriptorStoreMax=0\n").await;
    host.enable().await;
    let mut leased =
        host.spawn_as("games", &["vmlockctl", "--system", "run", "--disk", a, "--", "cat"]);
    leased.write_line("up");
    assert_eq!(leased.line().await, "up");
    let mut bound = host.spawn_as("games", &["sh", "-c", "echo $$; exec cat"]);
    let pid = bound.line().await.parse().unwrap();
    let bus = host.bus().await;
    let manager = manager(&bus).await;
    let path = manager.register_owner("", "web1", pid, HashMap::new()).await.unwrap();
    let web1 = owner(&bus, path).await;
    web1.acquire(&[exclusive(&images[1])], HashMap::new()).await.unwrap();
    assert_eq!(manager.n_locks().await.unwrap(), 2);
    let before = host.main().await;
    host.systemctl(&["restart", "vmlockd"]).await;
    assert_ne!(host.main().await, before);
    for path in [a, b] {
        let ran = host.run(&["vmlockctl", "run", "--disk", path, "--", "true"]).await;
        assert_eq!(ran.status.code(), Some(75), "{ran:?}");
    }
    within("the first command ends", leased.finish()).await;
    within("the second command ends", bound.finish()).await;
    for path in [a, b] {
        host.run(&["vmlockctl", "run", "--wait", "--disk", path, "--", "true"]).await.ok();
    }
}

#[tokio::test]
async fn locks_without_a_store_are_found_again_here() {
    locks_without_a_store_are_found_again(Tree::Own).await;
}

#[tokio::test]
async fn locks_without_a_store_are_found_again_on_trixie() {
    locks_without_a_store_are_found_again(Tree::Release("trixie")).await;
}
