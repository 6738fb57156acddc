//! `reload`: the service reads its configuration again and answers whether it accepts it.

use clap::Args;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
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

/// Calls `Manager.Reload` and waits for the answer.
pub(crate) async fn perform(link: &Link) -> Result<Code, Error> {
    let manager = link.manager().await?;
    let reply = link.ask::<_, ()>(manager.inner(), "Reload", &(Options::new(),)).await;
    reply.map(|()| Code::SUCCESS).map_err(|error| match error.refusal() {
        Some(cause) => Error::Failed(format!(
            "cannot reload the configuration: {cause}; the previous configuration stays in effect"
        )),
        None => error,
    })
}
