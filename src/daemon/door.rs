//! The sockets: virtlockd's, which one and who serves it, and the private one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::{Error, Options};
use crate::bus::Bus;
use crate::life::Connection;
use crate::lock::OwnerId;
use crate::lock::owner::AnchorId;
use crate::reexec;
use crate::service::Service;
use crate::virtlockd::{Server, Socket};

/// The file of the private socket in the runtime directory.
const PRIVATE: &str = "private";

/// The socket that was passed; else the one that was named, on the command line or in the
/// configuration; else the one where libvirt looks for it, if no process but `gone` serves it.
pub(super) fn open(
    options: &Options,
    passed: Option<OwnedFd>,
    configured: Option<&Path>,
    gone: Option<u32>,
) -> Result<Option<Socket>, Error> {
    let named = options.virtlockd_socket.as_deref().or(configured);
    if let Some(passed) = passed {
        let own: Vec<&Path> = named.into_iter().chain(options.default_socket.as_deref()).collect();
        return Ok(Some(Socket::passed(passed, &own)?));
    }
    if let Some(path) = named {
        return match Socket::bind(path, gone) {
            Ok(socket) => Ok(Some(socket)),
            // What is locked is served without it. A VM that libvirt starts meanwhile gets no lock.
            Err(error) if error.is_lack_of_room() => {
                tracing::error!("{error}; restart the service once this is fixed");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        };
    }
    let Some(path) = &options.default_socket else { return Ok(None) };
    match Socket::bind(path, gone) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => {
            tracing::info!("{error}; this instance does not serve it");
            Ok(None)
        }
    }
}

/// Binds the socket by which root reaches the system's service without the bus. All that it offers is
/// on the bus as well, so the service starts without it, too.
pub(super) fn open_private(options: &Options, gone: Option<u32>) -> Option<Arc<Socket>> {
    let path = options.runtime_dir.join(PRIVATE);
    let bound = (options.bus == Bus::System).then(|| Socket::bind(&path, gone))?;
    bound
        .map(Arc::new)
        .inspect_err(|error| tracing::error!("{error}; root can use only the bus"))
        .ok()
}

/// Serves it, and those who were connected before a restart.
pub(super) fn serve(
    service: &Service,
    connections: Vec<(OwnerId, AnchorId, Arc<Connection>)>,
    socket: Option<Socket>,
) -> Result<Server, Error> {
    let user = rustix::process::geteuid().as_raw();
    // Signals are the event loop's thread's.
    let begun = Server::begin(service, user, connections, socket, || drop(reexec::hold_signals()));
    begun.map_err(|errno| Error::System { doing: "serve virtlockd's socket", cause: errno.into() })
}
