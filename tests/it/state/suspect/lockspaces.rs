//! Damaged records of disks whose lock files are in a lockspace.

use std::path::PathBuf;

use super::{SUSPECT, damage, says};
use crate::cli::str;
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{Damage, Fixture, ForeignHolder, LockType, field};
use crate::refused_requests::assert_refused;
use crate::snapshot::Listed;

/// Whatever field is damaged, the lock file is what is locked: by it, other hosts are kept off.
#[tokio::test]
async fn the_lock_file_of_a_suspect_disk_is_locked_again() {
    for what in [
        Damage::Value(field::LOCK),
        Damage::Other(field::LOCKSPACE, b"fire".to_vec()),
        Damage::Forged(field::LOCKSPACE, b"fire".to_vec()),
        Damage::Field(field::LOCKSPACE),
        Damage::Field(field::LOCK_FILE),
        Damage::Value(field::IDENTITY),
        Damage::Value(field::PATH),
    ] {
        let config = "file_lockspace_dir = \"@DIR@/locks\"\n";
        let fixture = Fixture::builder().folder("locks").config(config).start().await;
        let bus = fixture.connection().await;
        let disk = fixture.raw_of(0, "disk.img");
        let web1 = TestVm::open(&bus, "web1").await;
        web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let listed = Listed::by(&bus).await;
        let file: PathBuf = listed.on(str(&disk)).next().unwrap()["lock-file"].clone().into();
        assert!(file.starts_with(fixture.dir().join("locks")), "{}", file.display());
        damage(&fixture, &what).await;
        let locked = format!("a damaged lock record names {}: it is locked again", str(&disk));
        says(&fixture, &locked).await;
        ForeignHolder::try_once(&file, LockType::Posix, true).expect_err(&format!("{what:?}"));
        let listed = Listed::by(&bus).await;
        let suspect = listed.on(str(&disk)).find(|lock| lock["name"] == SUSPECT).unwrap();
        assert_eq!(suspect["lock-file"], str(&file), "{what:?}");
        let refused = TestVm::open(&bus, "web2").await.acquire(&[exclusive(&disk)]).await;
        assert_refused(&refused.unwrap_err(), "LockHeld", "VM \"suspect\"");
    }
}
