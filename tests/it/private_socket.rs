//! The private socket: root's way to the service without a bus between.

use std::fs::{self, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use vmlockd::client::{Options, OwnerProxy, SERVICE, connect_private};
use zbus::fdo::PeerProxy;
use zbus::proxy::CacheProperties;
use zbus::{Connection, Message};

use crate::dbus_client::{TestVm, exclusive, manager, option, owner};
use crate::fixture::user::{NOBODY, ROOT, in_thread};
use crate::fixture::{Broker, Fixture, Flood, Flooder, within};
use crate::methods::none;
use crate::refused_requests::Untouched;

fn socket(fixture: &Fixture) -> PathBuf {
    fixture.dir().join("run/private")
}

async fn lock_count(connection: &Connection) -> usize {
    let manager = manager(connection).await;
    within("a list", manager.list_locks(Options::new())).await.unwrap().len()
}

#[tokio::test]
async fn it_answers_as_the_bus_does() {
    let fixture = Fixture::builder().start().await;
    let (private, bus) = (fixture.private_connection().await, fixture.connection().await);
    let image = fixture.image("one.qcow2").await;
    let mut acquired = manager(&bus).await.receive_lock_acquired().await.unwrap();
    let web1 = TestVm::open(&private, "web1").await;
    let locks = within("an answer", web1.acquire(&[exclusive(&image)])).await.unwrap();
    within("the signal on the bus", acquired.next()).await.unwrap();
    assert_eq!((lock_count(&private).await, lock_count(&bus).await), (1, 1));
    // A refusal names the holder, either way.
    for connection in [&private, &bus] {
        let web2 = within("an owner", TestVm::open(connection, "web2")).await;
        let refused = within("an answer", web2.acquire(&[exclusive(&image)])).await.unwrap_err();
        assert_eq!(refused.name, "LockHeld");
        assert!(refused.message.contains("web1"), "{}", refused.message);
    }
    within("an answer", web1.release(&locks)).await.unwrap();
    assert_eq!((lock_count(&private).await, lock_count(&bus).await), (0, 0));
    // The caller's process, and a descriptor of it that is passed back.
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let manager = manager(&private).await;
    let registered = manager.register_owner(uuid, "this", 0, none());
    let registered = within("an answer", registered).await.unwrap();
    // A cache would follow signals, which only a bus sends.
    let this = OwnerProxy::builder(&private).path(registered.clone());
    let this = this.cache_properties(CacheProperties::No).build().await.unwrap();
    let anchors = within("a property", this.anchors()).await.unwrap();
    assert_eq!(anchors, ["process"]);
    let found = manager.get_owner_by_pid(std::process::id());
    assert_eq!(within("an answer", found).await.unwrap(), registered);
}

/// They greet it as a bus, and look for the name first.
#[tokio::test]
async fn tools_for_a_bus_can_call_it() {
    let fixture = Fixture::builder().start().await;
    let address = format!("unix:path={}", socket(&fixture).display());
    let (path, interface) = ("/org/vmlockd1", "org.vmlockd1.Manager");
    let busctl = format!("--address={address}");
    let line = [&*busctl, "get-property", SERVICE, path, interface, "Version"];
    let said = within("an answer", fixture.run("busctl", &line)).await.ok();
    assert_eq!(said, format!("s \"{}\"\n", env!("CARGO_PKG_VERSION")));
    let line = [&*busctl, "tree", SERVICE];
    let tree = within("a tree", fixture.run("busctl", &line)).await.ok();
    assert!(tree.contains("/org/vmlockd1/lockspace/direct"), "{tree}");
    let method = format!("{interface}.ListOwners");
    let line = ["call", "--address", &address, "--dest", SERVICE, "-o", path, "-m", &method, "{}"];
    assert_eq!(within("an answer", fixture.run("gdbus", &line)).await.ok(), "(@aa{sv} [],)\n");
    // No other service is there.
    let line = [&*busctl, "call", "org.freedesktop.PolicyKit1", "/", interface, "Reload"];
    let ran = within("an answer", fixture.run("busctl", &line)).await;
    assert!(!ran.status.success() && ran.stderr.contains("no other service"), "{ran:?}");
}

#[tokio::test]
async fn a_wait_ends_with_the_connection() {
    let fixture = Fixture::builder().start().await;
    let (private, bus) = (fixture.private_connection().await, fixture.connection().await);
    let image = fixture.image("one.qcow2").await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    let web2 = TestVm::open(&private, "web2").await;
    let disks = [(image.to_str().unwrap().to_owned(), "exclusive")];
    let wait = tokio::spawn(async move {
        let disks = disks.each_ref().map(|(disk, mode)| (disk.as_str(), *mode));
        web2.owner.acquire(&disks, option("timeout-usec", u64::MAX)).await
    });
    let manager = manager(&bus).await;
    let waiting = async |count| while manager.n_waiting().await.unwrap() != count {};
    within("a waiter", waiting(1)).await;
    private.close().await.unwrap();
    within("the end of the wait", waiting(0)).await;
    assert!(wait.await.unwrap().is_err());
}

#[tokio::test]
async fn it_is_created_at_each_start() {
    let fixture = Fixture::builder().start().await;
    let (private, mut watch) = (fixture.private_connection().await, fixture.bus().watch().await);
    let image = fixture.image("one.qcow2").await;
    let uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
    let path = manager(&private).await.register_owner(uuid, "web1", 0, none()).await.unwrap();
    owner(&private, path).await.acquire(&[exclusive(&image)], none()).await.unwrap();
    let first = watch.owned().await;
    fixture.daemon().signal(Signal::SIGUSR1);
    within("the end of the connection", private.closed()).await;
    watch.owned_by_other_than(&first).await;
    assert_eq!(lock_count(&fixture.private_connection().await).await, 1);
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    assert_eq!(lock_count(&fixture.private_connection().await).await, 1);
    fixture.daemon().terminate().await;
    let refused = connect_private(&socket(&fixture)).await.unwrap_err();
    assert!(matches!(refused, zbus::Error::InputOutput(_)), "{refused:?}");
}

#[tokio::test]
async fn only_root_may_connect() {
    let fixture = Fixture::builder().start().await;
    let socket = socket(&fixture);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let path = socket.clone();
    let refused = in_thread(NOBODY, move || UnixStream::connect(path).unwrap_err().kind()).await;
    assert_eq!(refused, io::ErrorKind::PermissionDenied);
    // Whatever has become of its mode.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let path = socket.clone();
    let answered = in_thread(NOBODY, move || {
        let mut stream = UnixStream::connect(path).unwrap();
        // It may be disconnected by then.
        let _ = stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
        stream.read(&mut [0; 64]).unwrap_or(0)
    });
    assert_eq!(within("the end of the connection", answered).await, 0);
    assert_eq!(lock_count(&fixture.private_connection().await).await, 0);
}

#[tokio::test]
async fn an_invalid_message_closes_its_connection_only() {
    let fixture = Fixture::builder().start().await;
    let untouched = Untouched::so_far(&fixture).await;
    let claimed = Message::method_call("/org/vmlockd1", "Ping").sender(":1.1");
    let claimed = claimed.build(&()).unwrap();
    let greeted: [&[u8]; 2] = [b"this is no message of D-Bus", claimed.data().bytes()];
    let others: [&[u8]; 3] = [b"GET / HTTP/1.0\r\n\r\n", b"\0BEGIN\r\n", &[0; 8 << 10]];
    for (bytes, is_greeted) in
        greeted.map(|bytes| (bytes, true)).into_iter().chain(others.map(|bytes| (bytes, false)))
    {
        let (path, bytes) = (socket(&fixture), bytes.to_vec());
        let answered = in_thread(ROOT, move || {
            let mut stream = UnixStream::connect(path).unwrap();
            if is_greeted {
                stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n").unwrap();
            }
            let _ = stream.write_all(&bytes);
            let mut answered = Vec::new();
            let _ = stream.read_to_end(&mut answered);
            answered
        });
        let answered = within("the end of the connection", answered).await;
        assert_eq!(answered.starts_with(b"OK "), is_greeted, "{answered:?}");
    }
    untouched.still("what is no call").await;
    // A greeting that is never finished keeps no other client out.
    let silent = UnixStream::connect(socket(&fixture)).unwrap();
    assert_eq!(lock_count(&fixture.private_connection().await).await, 0);
    drop(silent);
    untouched.and_it_goes_on().await;
}

/// A client that calls and never reads is disconnected, and what it has asked for is dropped.
#[tokio::test]
async fn a_client_that_does_not_read_delays_no_other() {
    let fixture = Fixture::builder().start().await;
    let untouched = Untouched::so_far(&fixture).await;
    let path = socket(&fixture);
    let ended = in_thread(ROOT, move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n").unwrap();
        let call = Message::method_call("/org/vmlockd1", "GetAll").destination(SERVICE);
        let call = call.interface("org.freedesktop.DBus.Properties");
        let call = call.build(&"org.vmlockd1.Manager").unwrap();
        while stream.write_all(call.data().bytes()).is_ok() {}
    });
    within("its end", ended).await;
    assert_eq!(lock_count(&fixture.private_connection().await).await, 0);
    untouched.still("what is not read").await;
}

/// dbus-broker keeps small messages of several senders in a queue that grows as long as they send.
#[tokio::test]
async fn calls_queued_in_the_bus_delay_nothing() {
    let fixture = Fixture::builder().broker(Broker::DbusBroker).start().await;
    let (private, bus) = (fixture.private_connection().await, fixture.connection().await);
    let image = fixture.image("one.qcow2").await;
    let web1 = TestVm::open(&private, "web1").await;
    let bus_socket: PathBuf = fixture.address().strip_prefix("unix:path=").unwrap().into();
    let flood = || {
        let path = bus_socket.clone();
        in_thread(NOBODY, move || {
            let mut flooder = Flooder::connect(&path);
            assert!(flooder.send(Flood::Ping, false, 40_000));
            flooder
        })
    };
    let flooders = tokio::join!(flood(), flood(), flood());
    let peer = PeerProxy::builder(&bus).destination(SERVICE).path("/").build().await.unwrap();
    let acquired = async {
        let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();
        web1.release(&locks).await.unwrap();
    };
    tokio::select! {
        answer = peer.ping() => panic!("the call on the bus was answered first: {answer:?}"),
        () = within("an answer", acquired) => {}
    }
    drop(flooders);
    assert_eq!(lock_count(&bus).await, 0);
}
