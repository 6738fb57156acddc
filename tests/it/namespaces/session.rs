//! The instance of a user, which looks at processes of that user without any privilege.

use super::assert_foreign;
use super::scene::{Scene, is_free};
use crate::house::House;
use crate::house::user::NOBODY;
use crate::machine::{Machine, exclusive};

async fn scene() -> Scene {
    Scene::of(House::builder().session_of(NOBODY).start().await, NOBODY)
}

#[tokio::test]
async fn a_name_from_the_users_own_namespaces_is_proven_or_refused() {
    let scene = scene().await;
    let (disk, other) = (scene.disk(), scene.other());
    let (_process, bus) = scene.bus(&scene.swapped()).await;
    let inner = Machine::open(&bus, "inner").await;
    let refused = inner.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert_foreign(&refused, "leads to another file");
    assert!(is_free(&disk) && is_free(&other));
    inner.acquire(&[exclusive(&other)]).await.unwrap();
    assert!(is_free(&disk) && !is_free(&other));
}

#[tokio::test]
async fn a_process_that_may_not_be_looked_at_names_nothing() {
    let scene = scene().await;
    // The thread that connects is the user's, and its process is root's.
    let bus = crate::house::connect(scene.path("bus/socket"), NOBODY).await.unwrap();
    let machine = Machine::open(&bus, "web1").await;
    let refused = machine.acquire(&[exclusive(&scene.disk())]).await.unwrap_err();
    assert_foreign(&refused, "cannot examine the process");
    assert!(is_free(&scene.disk()));
    let file = std::fs::File::options().read(true).write(true).open(scene.disk()).unwrap();
    machine.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    assert!(!is_free(&scene.disk()));
}

#[tokio::test]
async fn vmlockctl_shows_files_there_too() {
    let scene = scene().await;
    let (disk, other) = (scene.disk(), scene.other());
    let path = disk.to_str().unwrap();
    let swapped = scene.swapped();
    let words = ["--session", "lock", "--name", "inner", path];
    scene.vmlockctl(&swapped, &words).await.ok();
    assert!(is_free(&disk) && !is_free(&other));
    let words = ["--session", "run", "--disk", path, "--", "true"];
    let refused = scene.vmlockctl(&swapped, &words).await;
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
    scene.vmlockctl(&swapped, &["--session", "unlock", "inner"]).await.ok();
    scene.vmlockctl(&swapped, &words).await.ok();
    // Where nothing is mounted over it, the name is the service's.
    scene.vmlockctl(&scene.beside(), &words).await.ok();
}
