//! Names that are no lease's, in every way in which one can be said.

use std::fs;

use super::{Scenario, refused};
use crate::dbus_client::{Answer, Refused, TestVm, option};
use crate::methods::none;
use crate::refused_requests::{Untouched, assert_refused};

const INVALID: &str = "DBus.Error.InvalidArgs";
const NO_SUCH: &str = "NoSuchLockspace";

fn answer<T>(outcome: zbus::Result<T>) -> Answer<()> {
    outcome.map(drop).map_err(Refused::from)
}

#[tokio::test]
async fn no_name_leads_out_of_its_lockspace() {
    let scenario = Scenario::set_up().await;
    let Scenario { fixture, bus, manager, directory } = &scenario;
    let machine = TestVm::open(bus, "web1").await;
    fs::write(fixture.dir().join("outside"), "").unwrap();
    let there = directory.display();
    let before = Untouched::so_far(fixture).await;
    for (name, error, words) in [
        (format!("lease:{there}/../outside"), INVALID, "has '..' in it"),
        (format!("lease:{there}/.."), INVALID, "has '..' in it"),
        (format!("lease:{there}/."), INVALID, "key '.' is not the name of a file in a lockspace"),
        (format!("lease:{there}/"), INVALID, "key '' is empty"),
        (format!("lease:{there}/a%2Fb"), INVALID, "key 'a/b' is not the name of a file"),
        (format!("lease:{there}/..%2Foutside"), INVALID, "key '../outside' is not the name"),
        (format!("lease:{there}/%2e%2e"), INVALID, "has a '%' in its key that is not part of"),
        (format!("lease:{there}/a%"), INVALID, "has a '%' in its key that is not part of"),
        (format!("lease:{there}/{}", "x".repeat(256)), INVALID, "is longer than 255 bytes"),
        (format!("lease:{there}/{}", "é".repeat(128)), INVALID, "is longer than 255 bytes"),
        (format!("lease:/{}/a", "x".repeat(5000)), INVALID, "is longer than 4095 bytes"),
        ("lease:".to_owned(), INVALID, "path '' is empty"),
        ("lease:leases/a".to_owned(), INVALID, "is not absolute"),
        ("lease:lease:/a".to_owned(), INVALID, "is not absolute"),
        (format!("lease:{there}/a/b"), NO_SUCH, "leases/a does not exist; create it first"),
        ("lease:/etc/passwd".to_owned(), NO_SUCH, "lockspace /etc does not exist;"),
        ("lease:/passwd".to_owned(), NO_SUCH, "lockspace / does not exist;"),
        (format!("lease:{there}\u{202e}/a"), NO_SUCH, "leases\\u{202e} does not exist"),
    ] {
        let disk_request = [(name.as_str(), "shared")];
        let resources = || option("resources", disk_request.to_vec());
        for outcome in [
            machine.acquire(&disk_request).await.map(drop),
            TestVm::open_with(bus, "", "vm", resources()).await.map(drop),
            answer(manager.register_owner("", "vm", 0, resources()).await),
            answer(manager.resolve(&name, none()).await),
            answer(manager.find_holders(&name, none()).await),
            answer(manager.create_lease(&name, none()).await),
            answer(manager.remove_lease(&name, none()).await),
        ] {
            println!("{name:.100}");
            assert_refused(&outcome.unwrap_err(), error, words);
        }
        before.still(&name).await;
    }
    // An invalid name of a lease can be neither created nor removed.
    for name in ["/srv/leases/a", "Lease:/srv/a", ""] {
        let words = "is not the name of a lease, which has the form lease:DIRECTORY/KEY";
        assert_refused(&refused(manager.create_lease(name, none()).await), INVALID, words);
        assert_refused(&refused(manager.remove_lease(name, none()).await), INVALID, words);
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn every_other_key_is_a_file_of_that_name() {
    let scenario = Scenario::set_up().await;
    let machine = TestVm::open(&scenario.bus, "web1").await;
    for (key, file) in [
        ("..a", "..a".to_owned()),
        ("50%25%2525", "50%%25".to_owned()),
        ("a b:shared", "a b:shared".to_owned()),
        ("lease:", "lease:".to_owned()),
        ("-x\n", "-x\n".to_owned()),
        (&"x".repeat(255), "x".repeat(255)),
    ] {
        let name = scenario.lease(key).await;
        assert!(scenario.file(&file).is_file(), "{key}");
        let locks = machine.acquire(&[(&name, "exclusive")]).await.unwrap();
        let other = TestVm::open(&scenario.bus, "web2").await;
        let held = other.acquire(&[(&name, "exclusive")]).await.unwrap_err();
        assert_refused(&held, "LockHeld", "VM \"web1\"");
        machine.release(&locks).await.unwrap();
        scenario.manager.remove_lease(&name, none()).await.unwrap();
    }
    assert_eq!(fs::read_dir(&scenario.directory).unwrap().count(), 0);
}
