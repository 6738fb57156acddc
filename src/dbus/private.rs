//! The private socket: the same objects, without a bus between.
//!
//! A bus delivers the messages for one connection in the order in which they came, those of all users.
//! dbus-broker reads 2 KiB from each sender in one turn of its event loop, and writes 16 messages to
//! each receiver (`IQUEUE_RECV_MAX`, `SOCKET_MMSG_MAX`), so small messages of two senders pile up in
//! front of everything that comes later, whatever the receiver does. dbus-daemon spends its time on
//! every message. So root has a way to the service of its own, as it has to systemd
//! (`/run/systemd/private`): only root can connect, and what root sends waits behind nothing else.
//!
//! Signals that are for everyone are sent on the bus only.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::JoinSet;
use zbus::names::OwnedUniqueName;

use crate::admission::Admission;
use crate::auth::authorizer::Authorizer;
use crate::life::Connection;
use crate::service::CallerProcess;

/// How many clients are served at one time, those that have not greeted yet included.
const CLIENTS: usize = 256;
/// How long to wait after a failure to accept a client: usually, descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves clients of the socket that belong to this user, for as long as this is polled.
pub(super) async fn serve(
    listener: UnixListener,
    uid: u32,
    gate: Authorizer,
    admission: Admission,
) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot serve the private socket");
            return;
        }
    };
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if clients.len() >= CLIENTS => {
                    tracing::warn!("refusing a client of the private socket: it has {CLIENTS} clients already");
                }
                Ok((stream, _)) => {
                    if let Some(client) = Client::admit(stream, uid, &gate, &admission) {
                        clients.spawn(client.serve(uid, admission.clone(), gate.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the private socket");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// A client that may be served.
struct Client {
    name: Arc<str>,
    unique: OwnedUniqueName,
    stream: UnixStream,
}

impl Client {
    /// Enters a client, so that its first call finds it known. The mode of the socket keeps other
    /// users out already; that of its directory may have been changed.
    fn admit(
        stream: UnixStream,
        uid: u32,
        gate: &Authorizer,
        admission: &Admission,
    ) -> Option<Self> {
        let stream = stream.into_std().ok()?;
        let connection = Connection::new(stream.try_clone().ok()?);
        let peer = connection.peer().ok()?;
        if peer.uid != uid {
            tracing::warn!(
                uid = peer.uid,
                "refusing a client of the private socket: uid {} is not the user of the service",
                peer.uid
            );
            return None;
        }
        let name = admission.new_client_name();
        let unique = OwnedUniqueName::try_from(&*name).ok()?;
        let process = Arc::new(CallerProcess::of_peer(&connection, uid, peer.pid));
        gate.callers.add_peer(unique.clone(), process, peer.pid);
        Some(Self { name, unique, stream: UnixStream::from_std(stream).ok()? })
    }

    async fn serve(self, uid: u32, admission: Admission, gate: Authorizer) {
        let Self { name, unique, stream } = self;
        if let Err(error) = admission.serve_private_client(&name, uid, stream).await {
            tracing::debug!(%error, "disconnected a client of the private socket");
        }
        gate.callers.remove(&unique);
        admission.remove_connection(&name);
    }
}
