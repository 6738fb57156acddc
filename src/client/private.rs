//! The service without a bus between, for root.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;
use zbus::Connection;
use zbus::connection::Builder;

/// Where the system's service listens for root.
pub const PRIVATE_SOCKET: &str = "/run/vmlockd/private";

/// How long the service may take to accept a client. One that is about to end accepts none any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects to the private socket of a service, on which it answers the same methods as on the bus.
/// The connection ends with the service. Signals for everyone are sent on the bus only.
///
/// # Errors
///
/// Where no service listens, it does not answer in two seconds, or it does not let this user in.
pub async fn connect_private(socket: &Path) -> zbus::Result<Connection> {
    let connecting = async {
        let stream = UnixStream::connect(socket).await?.into_std()?;
        Builder::unix_stream(stream).p2p().build().await
    };
    timeout(PATIENCE, connecting)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}
