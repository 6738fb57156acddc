//! `reload`: has the service read its configuration again, and reports whether it accepts it.

use clap::Args;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::client::Options;

const AFTER_HELP: &str = "\
Waits for the answer of the service and prints nothing if the new configuration \
is in effect. If the service refuses it, the command prints the error and exits \
with 1, and the previous configuration stays in effect. Locks that are held are \
not affected. A stopped service is not started. 'systemctl reload vmlockd' does \
the same. Users other than root need an administrator's password on the system \
bus.";

/// Have the service read its configuration again
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {}

/// Calls `Manager.Reload` and waits for the reply.
pub(crate) async fn perform(service: &ServiceConnection) -> Result<Exit, Error> {
    let manager = service.manager().await?;
    let reply = service.call_method::<_, ()>(manager.inner(), "Reload", &(Options::new(),)).await;
    reply.map(|()| Exit::SUCCESS).map_err(|error| match error.failure_reason() {
        Some(cause) => Error::Failed(format!(
            "cannot reload the configuration: {cause}; the previous configuration stays in effect"
        )),
        None => error,
    })
}
