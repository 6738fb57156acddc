//! A stopped service that the bus could start.

use super::{fails, start_advice, str, vmlockctl};
use crate::fixture::Fixture;

#[tokio::test]
async fn reading_starts_no_service_and_locking_does() {
    let fixture = Fixture::builder().started_by_bus().start().await;
    let image = fixture.image("a.qcow2").await;
    let path = str(&image);
    for line in [
        &["list"][..],
        &["list", path],
        &["owners"],
        &["waiting"],
        &["show", path],
        &["show", "1"],
        &["who", path],
        &["resolve", path],
        &["lockspace", "list"],
        &["metrics"],
    ] {
        let said = fails(&fixture, 69, line).await;
        let words = "vmlockd is not running on the system bus; start it with ";
        assert!(said.contains(words) && said.contains(start_advice()), "{line:?}: {said}");
    }
    let ran = vmlockctl(&fixture, &["doctor"]).await;
    assert_eq!(ran.status.code(), Some(69), "{ran:?}");
    assert!(ran.stdout.starts_with("DANGER   service    vmlockd is not running"), "{ran:?}");
    vmlockctl(&fixture, &["lock", "--name", "backup", path]).await.ok();
    assert!(vmlockctl(&fixture, &["list"]).await.ok().contains("backup"));
}
