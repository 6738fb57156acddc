//! Opens the listening sockets: virtlockd's, and the private one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::{Error, Options};
use crate::bus::Bus;
use crate::life::Connection;
use crate::lock::OwnerId;
use crate::lock::model::owner::AnchorId;
use crate::reexec;
use crate::service::Service;
use crate::virtlockd::{Server, Socket};

/// The file of the private socket in the runtime directory.
const PRIVATE: &str = "private";

/// Opens virtlockd's socket.
///
/// This is the passed socket; otherwise the one at the path of the command line or of the configuration;
/// otherwise the one at libvirt's default path, unless a process other than `killed` serves it.
pub(super) fn open(
    options: &Options,
    passed: Option<OwnedFd>,
    configured: Option<&Path>,
    killed: Option<u32>,
) -> Result<Option<Socket>, Error> {
    let path = options.virtlockd_socket.as_deref().or(configured);
    if let Some(passed) = passed {
        let own: Vec<&Path> = path.into_iter().chain(options.default_socket.as_deref()).collect();
        return Ok(Some(Socket::from_passed(passed, &own)?));
    }
    if let Some(path) = path {
        return match Socket::bind(path, killed) {
            Ok(socket) => Ok(Some(socket)),
            // The service runs without it, for the sake of existing locks. A VM that libvirt starts
            // meanwhile gets no lock.
            Err(error) if error.is_no_space() => {
                tracing::error!("{error}; restart the service once this is fixed");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        };
    }
    let Some(path) = &options.default_socket else { return Ok(None) };
    match Socket::bind(path, killed) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => {
            tracing::info!("{error}; this instance does not serve it");
            Ok(None)
        }
    }
}

/// Opens the socket by which root reaches the system service without the bus. The service runs without
/// it, too, as the bus offers the same interface.
pub(super) fn open_private(options: &Options, killed: Option<u32>) -> Option<Arc<Socket>> {
    let path = options.runtime_dir.join(PRIVATE);
    let bound = (options.bus == Bus::System).then(|| Socket::bind(&path, killed))?;
    bound
        .map(Arc::new)
        .inspect_err(|error| tracing::error!("{error}; root can use only the bus"))
        .ok()
}

/// Starts to serve virtlockd's socket, and the connections that have survived a restart.
pub(super) fn serve(
    service: &Service,
    connections: Vec<(OwnerId, AnchorId, Arc<Connection>)>,
    socket: Option<Socket>,
) -> Result<Server, Error> {
    let user = rustix::process::geteuid().as_raw();
    // Only the main thread receives signals.
    let server =
        Server::start(service, user, connections, socket, || drop(reexec::block_signals()));
    server.map_err(|errno| Error::System { doing: "serve virtlockd's socket", cause: errno.into() })
}
