//! The private socket: the same objects, without a bus.
//!
//! A bus delivers the messages to one connection in order of arrival, those of all senders
//! together. dbus-broker reads 2 KiB from each sender in one iteration of its event loop, and
//! writes 16 messages to each receiver (`IQUEUE_RECV_MAX`, `SOCKET_MMSG_MAX`), so small messages of
//! two senders build up a queue before every later message, whatever the receiver does. dbus-daemon
//! spends time on every message. Therefore root has a socket of its own, as for systemd
//! (`/run/systemd/private`): only root can connect, and the messages of root never queue behind
//! those of other users.
//!
//! Broadcast signals are sent on the bus only.

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

/// The number of clients at one time, including those that have not authenticated yet.
const CLIENTS: usize = 256;
/// The backoff after a failure to accept a client, usually for lack of descriptors.
const BACKOFF: Duration = Duration::from_millis(100);

/// Serves clients of the socket that belong to this user. Returns only on an error.
pub(super) async fn serve(
    listener: UnixListener,
    uid: u32,
    auth: Authorizer,
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
                    if let Some(client) = Client::admit(stream, uid, &auth, &admission) {
                        clients.spawn(client.serve(uid, admission.clone(), auth.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the private socket");
                    tokio::time::sleep(BACKOFF).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// An admitted client.
struct Client {
    name: Arc<str>,
    unique: OwnedUniqueName,
    stream: UnixStream,
}

impl Client {
    /// Checks the user of a client, and adds it to the callers, so that it is identified before its
    /// first call. The mode of the socket already excludes other users, but the mode of its
    /// directory may have been changed.
    fn admit(
        stream: UnixStream,
        uid: u32,
        auth: &Authorizer,
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
        auth.callers.add_private_client(unique.clone(), process, peer.pid);
        Some(Self { name, unique, stream: UnixStream::from_std(stream).ok()? })
    }

    async fn serve(self, uid: u32, admission: Admission, auth: Authorizer) {
        let Self { name, unique, stream } = self;
        if let Err(error) = admission.serve_private_client(&name, uid, stream).await {
            tracing::debug!(%error, "disconnected a client of the private socket");
        }
        auth.callers.remove(&unique);
        admission.remove_connection(&name);
    }
}
