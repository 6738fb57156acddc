//! Arguments and options that can't be right.

use std::collections::HashMap;
use std::fs::File;

use zbus::wire::Structure;
use zbus::{Fd, ObjectPath, OwnedObjectPath, Variant};

use crate::dbus_client::{Refused, TestVm, call, exclusive, lock, option, shared};
use crate::fixture::{Fixture, within};
use crate::methods::{self, MANAGER, Method, OWNER, Subject, none};
use crate::refused_requests::{Untouched, assert_free, assert_refused};

const INVALID: &str = "DBus.Error.InvalidArgs";

/// Every method, of an owner with one lock.
async fn of(fixture: &Fixture, machine: &TestVm) -> Vec<Method> {
    let (held, free) = (fixture.raw_of(0, "held"), fixture.raw_of(0, "free"));
    let locks = machine.acquire(&[exclusive(&held)]).await.unwrap();
    methods::all(&Subject { owner: &machine.path(), lock: &locks[0], disk: &free })
}

fn path(text: &'static str) -> Variant<'static> {
    ObjectPath::try_from(text).unwrap().into()
}

#[tokio::test]
async fn no_method_overlooks_an_option_that_it_does_not_know() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    let methods = of(&fixture, &machine).await;
    let before = Untouched::so_far(&fixture).await;
    for method in methods.iter().filter(|method| method.has_options()) {
        for (option, said) in [
            ("forse", "unknown option 'forse'"),
            ("", "unknown option ''"),
            ("timeout_usec", "unknown option 'timeout_usec'"),
            (&"y".repeat(100_000), &format!("unknown option '{}'", "y".repeat(64))),
        ] {
            println!("{method}");
            let options = HashMap::from([(option, Variant::from(true))]);
            let refused = method.call(&bus, options).await.unwrap_err();
            assert_refused(&refused, INVALID, said);
        }
        before.still(method.name).await;
    }
    let options = HashMap::from([("forse", Variant::from(true))]);
    let refused = machine.owner.close(options).await.unwrap_err().into();
    assert_refused(&refused, INVALID, "unknown option 'forse', did you mean 'force'?");
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_option_of_the_wrong_type_is_refused() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    let methods = of(&fixture, &machine).await;
    let before = Untouched::so_far(&fixture).await;
    let mut tried = 0;
    for method in &methods {
        let known: &[&str] = match method.name {
            "OpenOwner" => &[
                "resources",
                "timeout-usec",
                "no-timeout",
                "in-use",
                "on-lost",
                "why",
                "manual",
                "process",
            ],
            "RegisterOwner" => {
                &["resources", "timeout-usec", "no-timeout", "in-use", "on-lost", "why", "manual"]
            }
            "Acquire" | "AcquireWithFiles" => &["timeout-usec", "no-timeout", "in-use"],
            "Resume" => &["timeout-usec", "no-timeout"],
            "Convert" => &["timeout-usec", "no-timeout", "in-use", "file"],
            "Offer" => &["timeout-usec", "force"],
            "Release" | "Suspend" | "Close" => &["force"],
            "ListLocks" => &["limit", "after", "owner", "resource", "suspended"],
            "ListOwners" => &["limit", "after"],
            "ListWaiting" => &["limit", "after", "owner", "resource"],
            _ => &[],
        };
        for option in known {
            let (words, wrong): (&str, Vec<Variant<'_>>) = match *option {
                "resources" => ("must be an array", vec!["/a".into(), vec!["/a"].into()]),
                "timeout-usec" => ("a 64-bit number", vec![0_u32.into(), "0".into(), 0_i64.into()]),
                "limit" => ("", vec![0_u32.into(), 1_u64.into(), (-1_i32).into(), "1".into()]),
                "after" | "owner" => ("must be", vec![1_u32.into(), "1".into(), path("/a")]),
                "resource" => ("must be a string", vec![path("/a"), vec!["/a"].into()]),
                "manual" | "force" | "in-use" | "suspended" | "no-timeout" => {
                    ("must be a boolean", vec!["true".into(), 1_u32.into()])
                }
                "why" => ("", vec![1_u32.into(), vec!["a"].into(), "a\nb".into()]),
                "on-lost" => ("", vec![true.into(), "".into(), "stop".into(), "KILL".into()]),
                _ => ("must be a descriptor", vec![3_u32.into(), "/dev/null".into()]),
            };
            for value in wrong {
                println!("{method} {option} {value:?}");
                let options = HashMap::from([(*option, value)]);
                let refused = method.call(&bus, options).await.unwrap_err();
                assert_refused(&refused, INVALID, &format!("option '{option}'"));
                assert_refused(&refused, INVALID, words);
                tried += 1;
            }
        }
        before.still(method.name).await;
    }
    assert_eq!(tried, 112);
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn an_undecodable_call_is_refused() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let machine = TestVm::open(&bus, "web1").await;
    let methods = of(&fixture, &machine).await;
    let before = Untouched::so_far(&fixture).await;
    for method in &methods {
        for arguments in [
            Structure::from((7_i32,)),
            Structure::from(("", vec![1.5_f64], true)),
            Structure::from((vec![(1_u8, "x")], "exclusive")),
        ] {
            println!("{method}{}", arguments.signature());
            let asked = method.call_with(&bus, &arguments);
            let refused = within("an answer", asked).await.unwrap_err();
            let property = method.interface == methods::LOG;
            let error = if property { "DBus.Error.UnknownMethod" } else { INVALID };
            assert_eq!(refused.name, error, "{refused:?}");
        }
        before.still(method.name).await;
    }
    let path = machine.path();
    let body = Structure::from(("x",));
    for (object, method, error) in [
        ("/org/vmlockd1", (MANAGER, "OpenOwners"), "DBus.Error.UnknownMethod"),
        ("/org/vmlockd1", (OWNER, "Close"), "DBus.Error.UnknownInterface"),
        (path.as_str(), ("org.vmlockd1.Owner", "close"), "DBus.Error.UnknownMethod"),
        ("/org/vmlockd1/owner/_1", (OWNER, "Close"), "DBus.Error.UnknownObject"),
        ("/org/vmlockd1/lock/1000", (methods::LOCK, "Release"), "DBus.Error.UnknownObject"),
        ("/", (MANAGER, "Reload"), "DBus.Error.UnknownInterface"),
    ] {
        let refused = call(&bus, object, method, &body).await.unwrap_err();
        assert_eq!(refused.name, error, "{object} {method:?}: {refused:?}");
    }
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_mode_is_one_of_two_words() {
    let fixture = Fixture::builder().start().await;
    let (bus, disk) = (fixture.connection().await, fixture.raw_of(0, "disk"));
    let machine = TestVm::open(&bus, "web1").await;
    let held = machine.acquire(&[shared(&fixture.raw_of(0, "held"))]).await.unwrap();
    let held = lock(&bus, &held[0]).await;
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    let before = Untouched::so_far(&fixture).await;
    for mode in ["", "none", "Exclusive", "exclusive ", "write", "ex\nclusive", "\u{202e}x"] {
        let disk_request = [(disk.to_str().unwrap(), mode)];
        let disks = option("resources", disk_request.to_vec());
        let escaped: String = mode.chars().map(escape).collect();
        let said = format!("mode '{escaped}' is neither 'exclusive' nor 'shared'");
        for refused in [
            machine.acquire(&disk_request).await.unwrap_err(),
            machine.acquire_files(&[(&file, mode)]).await.unwrap_err(),
            TestVm::open_with(&bus, "", "web2", disks).await.unwrap_err(),
            held.convert(mode, none()).await.unwrap_err().into(),
        ] {
            assert_refused(&refused, INVALID, &said);
        }
        before.still(&said).await;
    }
    assert_free(&disk);
    before.and_it_goes_on().await;
}

fn escape(c: char) -> String {
    if c == '\n' || c == '\u{202e}' { c.escape_default().to_string() } else { c.to_string() }
}

#[tokio::test]
async fn a_lock_of_another_owner_is_refused() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let (one, two) = (fixture.raw_of(0, "one"), fixture.raw_of(0, "two"));
    let mine = web1.acquire(&[exclusive(&one)]).await.unwrap();
    let others = web2.acquire(&[exclusive(&two)]).await.unwrap();
    let before = Untouched::so_far(&fixture).await;
    let other = others[0].as_str();
    for (path, said) in [
        ("/", "/ is not a lock"),
        ("/org/vmlockd1", "/org/vmlockd1 is not a lock"),
        ("/org/vmlockd1/lock/007", "/org/vmlockd1/lock/007 is not a lock"),
        (web1.path().as_str(), "is not a lock"),
        ("/org/vmlockd1/lock/1000", "lock 1000 does not exist"),
        ("/org/vmlockd1/lock/18446744073709551616", "is not a lock"),
        (other, " does not exist"),
    ] {
        // All or nothing: the right one is kept too.
        let path = OwnedObjectPath::try_from(path).unwrap();
        let refused = web1.release(&[mine[0].clone(), path]).await.unwrap_err();
        assert_refused(&refused, "NoSuchLock", said);
        before.still(said).await;
    }
    assert_eq!(web1.locks().await, mine);
    // Twice in one call is once.
    web1.release(&[mine[0].clone(), mine[0].clone()]).await.unwrap();
    assert_free(&one);
    let released = lock(&bus, &mine[0]).await.release(none()).await.unwrap_err();
    assert_eq!(Refused::from(released).name, "DBus.Error.UnknownObject");
    let again = web1.release(&mine).await.unwrap_err();
    assert_refused(&again, "NoSuchLock", " does not exist");
}

#[tokio::test]
async fn a_proof_of_another_disk_proves_nothing() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (disk, other) = (fixture.raw_of(0, "disk"), fixture.raw_of(0, "other"));
    let machine = TestVm::open(&bus, "web1").await;
    let locks = machine.acquire(&[shared(&disk)]).await.unwrap();
    let its = lock(&bus, &locks[0]).await;
    let before = Untouched::so_far(&fixture).await;
    let file = File::options().read(true).write(true).open(&other).unwrap();
    let proof = option("file", Fd::from(&file));
    let refused = its.convert("exclusive", proof).await.unwrap_err().into();
    let words = format!("option 'file' is a descriptor of another disk than {}", disk.display());
    assert_refused(&refused, "ResourceChanged", &words);
    assert_eq!(its.mode().await.unwrap(), "shared");
    before.and_it_goes_on().await;
}

#[tokio::test]
async fn a_closed_owner_is_no_object() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let before = Untouched::so_far(&fixture).await;
    let machine = TestVm::open(&bus, "web1").await;
    let methods = of(&fixture, &machine).await;
    let last = methods.last().unwrap();
    last.call(&bus, none()).await.unwrap();
    let of_it = methods.iter().filter(|method| method.object.contains("1/owner/"));
    let of_its_lock = methods.iter().filter(|method| method.object.contains("1/lock/"));
    for method in of_it.chain(of_its_lock) {
        println!("{method}");
        let refused = method.call(&bus, none()).await.unwrap_err();
        assert_refused(&refused, "DBus.Error.UnknownObject", &method.object);
    }
    let read = machine.owner.locks().await.unwrap_err();
    assert_eq!(Refused::from(read).name, "DBus.Error.UnknownObject");
    drop((machine, methods));
    for disk in ["held", "free"] {
        std::fs::remove_file(fixture.dir().join(disk)).unwrap();
    }
    before.and_it_goes_on().await;
}
