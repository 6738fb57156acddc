//! The state as lines of JSON (`vmlockd --dump-state`).

use std::fs;

use serde_json::Value;

use crate::cli::str;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{Damage, Fixture, StateImage};

/// Prints the state; checks that this changes nothing.
async fn dump(fixture: &Fixture) -> Vec<Value> {
    let directory = fixture.launch().runtime_dir;
    let before = fs::read(directory.join("state")).unwrap();
    let ran = fixture.run("vmlockd", &["--dump-state", str(&directory)]).await;
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:#?}");
    assert_eq!(fs::read(directory.join("state")).unwrap(), before);
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_record_has_a_line() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk.img"));
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&disk)]).await.unwrap();
    let lines = dump(&fixture).await;
    let kinds: Vec<&Value> = lines.iter().map(|line| &line["kind"]).collect();
    assert_eq!(kinds, ["file", "owner", "anchor", "lock"]);
    assert_eq!((&lines[1]["name"], &lines[2]["stage"]), (&"web1".into(), &"held".into()));
    assert_eq!(lines[2]["anchor"], "lifeline");
    assert_eq!((&lines[3]["mode"], &lines[3]["path"]), (&"exclusive".into(), &str(&disk).into()));

    fixture.daemon().kill9().await;
    super::suspect::change(
        &fixture.launch().runtime_dir.join("state"),
        |image: &mut StateImage| {
            image.damage(&image.last_lock(), &Damage::Checksum);
        },
    );
    let lines = dump(&fixture).await;
    assert_eq!((&lines[0]["damaged"], &lines[3]["kind"]), (&1.into(), &"damaged".into()));
    assert_eq!(lines[3]["names"][0], str(&disk));
}
