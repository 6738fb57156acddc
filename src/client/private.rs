//! Connections to the private socket of the service, for root.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;
use zbus::Connection;
use zbus::connection::Builder;

/// The private socket of the host's service.
pub const PRIVATE_SOCKET: &str = "/run/vmlockd/private";

/// The timeout of a connection. A service that is about to end accepts no connections.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to the private socket of a service, which has the same methods as the service on the
/// bus. The connection ends with the service. Broadcast signals are sent on the bus only.
///
/// # Errors
///
/// Returns an error if no service listens, it does not reply in two seconds, or it rejects this
/// user.
pub async fn connect_private(socket: &Path) -> zbus::Result<Connection> {
    let connecting = async {
        let stream = UnixStream::connect(socket).await?.into_std()?;
        Builder::unix_stream(stream).p2p().build().await
    };
    timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}
