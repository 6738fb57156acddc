//! Files that the host swaps to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;
use crate::fixture::TestMount;
use crate::nspawn::skip;

/// A file that is swapped to until it is dropped.
struct Swap(std::path::PathBuf);

impl Swap {
    fn on(file: &Path) -> Option<Swap> {
        fs::write(file, vec![0; 1 << 20]).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        let output = Command::new("mkswap").arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = Command::new("swapon").arg(file).output().unwrap();
        if output.status.success() {
            return Some(Swap(file.to_owned()));
        }
        skip(&String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.0).status();
    }
}

async fn refused(fixture: &Fixture, disk: &Path, use_: &str) {
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    let said = format!("this host uses it ({use_}), and 'in-use' was not said");
    let refused = web1.acquire(&[exclusive(disk)]).await.unwrap_err();
    assert_refused(&refused, "NotLockable", &said);
    let locks = web1.acquire(&[shared(disk)]).await.unwrap();
    let reads = lock(&bus, &locks[0]).await;
    let refused = reads.convert("exclusive", none()).await.unwrap_err().into();
    assert_refused(&refused, "NotLockable", &said);
    web1.release(&locks).await.unwrap();
    web1.owner.acquire(&[exclusive(disk)], option("in-use", true)).await.unwrap();
}

#[tokio::test]
async fn a_swap_file_is_refused_unless_forced() {
    let direct = Fixture::builder().folder("a b").start().await;
    let hashed = Fixture::builder().folder("a b").folder("locks");
    let hashed = hashed.config("file_lockspace_dir = \"@DIR@/locks\"").start().await;
    for fixture in [&direct, &hashed] {
        let file = fixture.dir().join("a b/swap");
        let Some(swap) = Swap::on(&file) else { return };
        let link = fixture.dir().join("link");
        fs::hard_link(&file, &link).unwrap_or_else(|error| println!("no second name: {error}"));
        refused(fixture, &file, &format!("swapped to as {}", file.display())).await;
        drop(swap);
        let bus = fixture.connection().await;
        TestVm::open(&bus, "web2").await.acquire(&[exclusive(&file)]).await.unwrap();
    }
}

#[tokio::test]
async fn a_swap_file_is_known_where_its_name_leads_elsewhere() {
    let fixture = Fixture::builder().folder("real").folder("seen").start().await;
    let file = fixture.dir().join("real/swap");
    let bound = fixture.dir().join("seen");
    let Some(swap) = Swap::on(&file) else { return };
    let binding = TestMount::over(&fixture.dir().join("real"), &bound);
    let over = TestMount::empty_over(&fixture.dir().join("real"));
    fs::write(&file, "innocent").unwrap();
    refused(&fixture, &bound.join("swap"), "swapped to").await;
    let bus = fixture.connection().await;
    TestVm::open(&bus, "web2").await.acquire(&[exclusive(&file)]).await.unwrap();
    drop((over, binding));
    drop(swap);
}
