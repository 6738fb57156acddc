//! Waiting without a time limit, and how a caller asks for it.

use zbus::Variant;

use crate::dbus_client::{TestVm, exclusive, option};
use crate::fixture::Fixture;
use crate::methods::none;
use crate::refused_requests::assert_refused;
use crate::wait::{LONG, until_waiting};

#[tokio::test]
async fn no_timeout_waits_until_the_lock_is_granted() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    for more in [none(), option("timeout-usec", LONG)] {
        let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
        let locks = web1.acquire(&[exclusive(&disk)]).await.unwrap();
        let (owner, name) = (web2.owner.clone(), disk.to_str().unwrap().to_owned());
        let options = more.into_iter().chain(option("no-timeout", true)).collect();
        let waiting =
            tokio::spawn(async move { owner.acquire(&[(&name, "exclusive")], options).await });
        until_waiting(&bus, 1).await;
        web1.release(&locks).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), web2.locks().await);
        web2.owner.close(none()).await.unwrap();
        web1.owner.close(none()).await.unwrap();
    }
}

#[tokio::test]
async fn a_time_limit_and_no_time_limit_contradict_each_other() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    for micros in [0_u64, 1, LONG - 1] {
        let mut options = option("timeout-usec", micros);
        options.insert("no-timeout", Variant::from(true));
        let refused = machine.owner.acquire(&[exclusive(&disk)], options).await.unwrap_err();
        let said = format!("'timeout-usec' ({micros}) and 'no-timeout' contradict each other");
        assert_refused(&refused.into(), "DBus.Error.InvalidArgs", &said);
    }
    // False says nothing: the answer comes at once.
    let other = TestVm::open(&bus, "web2").await;
    other.acquire(&[exclusive(&disk)]).await.unwrap();
    let options = option("no-timeout", false);
    let refused = machine.owner.acquire(&[exclusive(&disk)], options).await.unwrap_err();
    assert_refused(&refused.into(), "LockHeld", "is locked");
}
