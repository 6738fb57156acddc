//! `resolve`: the file that would be locked for a disk.

use std::ffi::OsString;
use std::os::fd::AsFd as _;

use clap::Args;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::format::table;
use crate::cli::target::disk;
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{Form, print};
use crate::client::{Options, Row};

/// The keys in the order in which they are printed: from the name to the lock file.
const ORDER: [&str; 6] = ["resource", "path", "identity", "lockspace", "lock-file", "lock-files"];

/// Show which file would be locked for a disk, without locking it
#[derive(Debug, Args)]
#[command(after_help = target::help("An owner is resolved if it holds one disk."))]
pub(crate) struct Arguments {
    /// A disk image, block device or lease; or a lock or owner, for its disk
    #[arg(value_name = "PATH|LOCK|OWNER")]
    target: OsString,
}

/// Prints where the lock of a disk would be.
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let paths = Target::parse(arguments.target)?.disks(link).await?;
    let [path] = &paths[..] else {
        return Err(Error::Usage(format!(
            "the owner holds {} disks; give one of them, as 'vmlockctl list' prints it",
            paths.len()
        )));
    };
    let manager = link.manager().await?;
    let by_name = async {
        let name = disk::name(path)?;
        let asked = (name.as_str(), Options::new());
        link.ask::<_, Row>(manager.inner(), "Resolve", &asked).await
    };
    let resolution = match by_name.await {
        // From another mount namespace the file can be shown, but not named.
        Err(error) if link.show_files_after(&error) => {
            let file = disk::open_to_ask(path).ok_or(error)?;
            manager.resolve_file(file.as_fd().into(), Options::new()).await?
        }
        resolution => resolution?,
    };
    print(&match form {
        Form::Json => json::document(&json::object(&resolution)),
        Form::Text => text(&resolution),
    })?;
    Ok(Code::SUCCESS)
}

fn text(resolution: &Row) -> String {
    let pair = |key: &str| Some((key.to_owned(), json::plain(resolution.get(key)?)));
    table::pairs(&ORDER.into_iter().filter_map(pair).collect::<Vec<_>>())
}
