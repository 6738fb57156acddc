//! A caller in another root directory (`chroot(2)`), in the mount namespace of the service.

use std::fs;
use std::path::Path;

use super::super::assert_foreign;
use super::super::scenario::{Scenario, is_free};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::TestMount;

#[tokio::test]
async fn a_name_means_what_it_leads_to_from_the_callers_root_directory() {
    let scenario = Scenario::new().await;
    let (root, dir) = (scenario.path("root"), scenario.fixture.dir().to_owned());
    fs::create_dir(&root).unwrap();
    let within = |path: &Path| root.join(path.strip_prefix("/").unwrap());
    let _root = TestMount::over(Path::new("/"), &root);
    let _proc = TestMount::over(Path::new("/proc"), &root.join("proc"));
    let _dir = TestMount::over(&dir, &within(&dir));
    let _pool = TestMount::over(&scenario.path("other"), &within(&scenario.path("pool")));
    // Where the test binary is.
    let binary = std::env::current_exe().unwrap();
    let place = binary.parent().unwrap();
    let _binary = TestMount::over(place, &within(place));
    let behind = ["chroot".to_owned(), root.display().to_string()];
    let (_process, bus) = scenario.bus(&behind).await;
    let inner = TestVm::open(&bus, "inner").await;
    let refused = inner.acquire(&[exclusive(&scenario.disk())]).await.unwrap_err();
    assert_foreign(&refused, "leads to another file");
    assert!(is_free(&scenario.disk()));
    inner.acquire(&[exclusive(&scenario.other())]).await.unwrap();
    assert!(!is_free(&scenario.other()));
}
