//! A caller in another root directory (`chroot(2)`), in the mount namespace of the service.

use std::fs;
use std::path::Path;

use super::assert_foreign;
use super::scene::{Scene, is_free};
use crate::house::Mounted;
use crate::machine::{Machine, exclusive};

#[tokio::test]
async fn a_name_means_what_it_leads_to_from_the_callers_root_directory() {
    let scene = Scene::new().await;
    let (root, dir) = (scene.path("root"), scene.house.dir().to_owned());
    fs::create_dir(&root).unwrap();
    let within = |path: &Path| root.join(path.strip_prefix("/").unwrap());
    let _root = Mounted::over(Path::new("/"), &root);
    let _proc = Mounted::over(Path::new("/proc"), &root.join("proc"));
    let _dir = Mounted::over(&dir, &within(&dir));
    let _pool = Mounted::over(&scene.path("other"), &within(&scene.path("pool")));
    // Where the test binary is.
    let binary = std::env::current_exe().unwrap();
    let place = binary.parent().unwrap();
    let _binary = Mounted::over(place, &within(place));
    let behind = ["chroot".to_owned(), root.display().to_string()];
    let (_process, bus) = scene.bus(&behind).await;
    let inner = Machine::open(&bus, "inner").await;
    let refused = inner.acquire(&[exclusive(&scene.disk())]).await.unwrap_err();
    assert_foreign(&refused, "leads to another file");
    assert!(is_free(&scene.disk()));
    inner.acquire(&[exclusive(&scene.other())]).await.unwrap();
    assert!(!is_free(&scene.other()));
}
