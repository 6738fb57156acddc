//! The service's numbers are what happened.

use vmlockd::client::Row;
use zbus::{Connection, OwnedVariant};

use crate::dbus_client::{TestVm, exclusive, lock, manager, option, shared};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, polkit, within};
use crate::methods::none;

async fn metrics(bus: &Connection) -> Row {
    manager(bus).await.get_metrics(none()).await.unwrap()
}

fn number(metrics: &Row, key: &str) -> u64 {
    u64::try_from(&metrics[key]).unwrap_or_else(|error| panic!("{key}: {error}"))
}

fn buckets(metrics: &Row, key: &str) -> Vec<(u64, u64)> {
    let value: OwnedVariant = metrics[key].try_clone().unwrap();
    value.try_into().unwrap_or_else(|error| panic!("{key}: {error}"))
}

/// The numbers that are not 0.
fn counted(metrics: &Row) -> Vec<(&str, u64)> {
    let keys = metrics.iter().filter(|(key, value)| {
        u64::try_from(*value).is_ok_and(|n| n > 0)
            && !key.contains("usec")
            && !key.ends_with("-count")
    });
    let mut counted: Vec<_> = keys.map(|(key, _)| (key.as_str(), number(metrics, key))).collect();
    counted.sort_unstable();
    counted
}

#[tokio::test]
async fn events_are_counted() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    let bus = fixture.connection().await;
    assert_eq!(counted(&metrics(&bus).await), []);
    let [a, b] = ["a", "b"].map(|name| fixture.raw_of(0, name));
    let theirs = fixture.raw_of(NOBODY, "theirs");

    let web1 = TestVm::open(&bus, "web1").await;
    let locks = web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();
    // An existing lock is not granted again.
    web1.acquire(&[exclusive(&a)]).await.unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    web2.acquire(&[exclusive(&a)]).await.unwrap_err();
    // It waits, though not for long.
    web2.owner.acquire(&[exclusive(&a)], option("timeout-usec", 1_u64)).await.unwrap_err();
    let user = fixture.connection_as(NOBODY).await;
    TestVm::open_with(&user, "", "web3", none()).await.err().unwrap();
    fixture.polkit().mock().answer(Answer::Allow);
    let web3 = TestVm::open(&user, "web3").await;
    let file = std::fs::File::options().read(true).write(true).open(&theirs).unwrap();
    let broken = web3.acquire_files(&[(&file, "exclusive")]).await.unwrap();
    lock(&bus, &broken[0]).await.release(option("force", true)).await.unwrap();
    web1.release(&locks[1..]).await.unwrap();
    drop(web2);
    let ended = async { while number(&metrics(&bus).await, "owners-ended") == 0 {} };
    within("an owner's end", ended).await;

    let told = metrics(&bus).await;
    let expected = [
        ("locks", 1),
        ("locks-forced", 1),
        ("locks-granted", 3),
        ("locks-released", 2),
        ("owners", 2),
        ("owners-ended", 1),
        ("owners-opened", 3),
        ("requests-denied", 1),
        ("requests-refused", 1),
        ("requests-timed-out", 1),
        ("requests-waited", 1),
    ];
    assert_eq!(counted(&told), expected);
    let grants = buckets(&told, "grant-usec");
    assert_eq!(number(&told, "grant-count"), 2);
    assert!(grants.iter().all(|(_, count)| *count <= 2), "{grants:?}");
    assert!(grants.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{grants:?}");
    assert!(number(&told, "grant-usec-sum") > 0);
    assert_eq!((number(&told, "wait-count"), buckets(&told, "wait-usec").len()), (1, 12));

    // Another program begins anew, with what it took up.
    let since = number(&told, "since-usec");
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    let told = metrics(&bus).await;
    assert_eq!(counted(&told), [("locks", 1), ("locks-restored", 1), ("owners", 2)]);
    assert!(number(&told, "since-usec") > since);
    web1.release(&locks[..1]).await.unwrap();
    let told = metrics(&bus).await;
    assert_eq!(counted(&told), [("locks-released", 1), ("locks-restored", 1), ("owners", 2)]);
}
