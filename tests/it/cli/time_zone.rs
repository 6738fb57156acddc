//! Times are printed in the user's time zone, those of the service included.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::{json, str};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{Fixture, run};

/// Where the clock is 14 hours ahead of UTC.
const ZONE: &str = "Pacific/Kiritimati";

#[tokio::test]
async fn the_service_sends_utc_and_the_tool_prints_local_time() {
    let fixture = Fixture::builder().env("TZ", "America/New_York").start().await;
    let disk = fixture.raw_of(0, "disk");
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let web2 = TestVm::open(&bus, "web2").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let since = json(&fixture, &["list"]).await[0]["since-usec"].as_i64().unwrap();
    let since = Timestamp::from_microsecond(since).unwrap();

    let refused = web2.acquire(&[exclusive(&disk)]).await.unwrap_err();
    let told = format!("user root) since {since:.0}, ");
    assert!(refused.message.contains(&told), "{told} in {refused:?}");

    let there = since.to_zoned_datetime(TimeZone::fixed(Offset::constant(14)));
    // With the date before it, if midnight passes there meanwhile.
    let time = there.strftime("%H:%M").to_string();
    let disk = str(&disk);
    for line in [
        &["run", "--disk", disk, "--", "true"][..],
        &["who", disk],
        &["list"],
        &["owners"],
        &["show", "web1"],
    ] {
        let mut command = fixture.command("vmlockctl");
        command.args(line).env("TZ", ZONE);
        let ran = run(command).await;
        let said = ran.stdout + &ran.stderr;
        assert!(said.contains(&time), "{line:?}: {time} in {said}");
        assert!(!said.contains("Z, "), "{said}");
    }
}
