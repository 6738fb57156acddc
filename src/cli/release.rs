//! `release`: one lock is given up.

use std::ffi::OsString;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::code::Code;
use super::error::Error;
use super::find::{self, Target};
use super::link::Link;
use super::row;
use crate::client::{LOCKS_PATH, Options};

const AFTER_HELP: &str = "\
The lock is taken away from its owner, who is not told and goes on using the
disk: make sure that he does not. With --force this works on the locks of
others too; for users other than root that needs an administrator's password.";

/// Release a lock; with --force also another user's
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Break the lock of a living machine that another user opened
    #[arg(long)]
    force: bool,
    /// The lock's number, or the disk: /PATH or ./PATH; or the lease: lease:DIRECTORY/KEY
    #[arg(value_name = "LOCK|PATH", value_parser = OsStringValueParser::new().try_map(parse))]
    target: Which,
}

/// Which lock.
#[derive(Debug, Clone)]
enum Which {
    /// By number.
    Number(u64),
    /// The one on a disk.
    On(OsString),
}

fn parse(argument: OsString) -> Result<Which, &'static str> {
    let number = argument.to_str().and_then(|text| text.parse().ok());
    match (number, Target::path_or_text(argument.clone())) {
        (Some(number), _) => Ok(Which::Number(number)),
        (None, Ok(Target::Path(_))) => Ok(Which::On(argument)),
        _ => Err(
            "neither the number of a lock nor a path that begins with /, ./ or ../, nor a lease",
        ),
    }
}

/// Does it.
pub(super) async fn perform(link: &Link, arguments: Arguments) -> Result<Code, Error> {
    let path = match arguments.target {
        Which::Number(number) => format!("{LOCKS_PATH}/{number}"),
        Which::On(disk) => {
            let disk = super::disks::absolute(disk.as_ref())?;
            row::text(&find::lock_on(link, &disk, None).await?, "lock").to_owned()
        }
    };
    let lock = link.lock(&path).await?;
    let options = Options::from([("force", arguments.force.into())]);
    match link.ask::<_, ()>(lock.inner(), "Release", &(options,)).await {
        Err(error) if error.is_no_such_object() => {
            let number = path.rsplit('/').next().unwrap_or_default();
            Err(Error::Missing(format!("there is no lock {number}")))
        }
        released => released.map(|()| Code::SUCCESS),
    }
}
