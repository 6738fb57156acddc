//! `suspend`: releases the locks of an owner; the service remembers them for `resume`.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::lock_table;
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{self, OutputFormat};
use crate::client::{Options, Row};
use crate::lock::text::escape::{shown, shown_path};

const AFTER_HELP: &str = "\
Releases all locks of the owner, withdraws its waiting requests, and prints what \
was released. The service remembers the locks until 'vmlockctl resume' acquires \
them again. Until then the owner can lock nothing else, and other owners can \
lock the disks. The VM is not notified: make sure that it is paused, or that it has \
moved to another host.

For the owner of another user, --force is needed while its VM is alive, and \
users other than root need an administrator's password.";

/// Release all locks of an owner and remember them for 'vmlockctl resume'
#[derive(Debug, Args)]
#[command(after_help = target::help(AFTER_HELP))]
pub(crate) struct Arguments {
    /// Break the locks of a living VM of another user
    #[arg(long)]
    force: bool,
    /// The owner, or a lock or disk that it holds
    #[arg(value_name = "OWNER|LOCK|PATH")]
    target: OsString,
}

/// Suspends the owner and prints what it has released.
pub(crate) async fn perform(
    service: &ServiceConnection,
    arguments: Arguments,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let argument = shown_path(Path::new(&arguments.target));
    let owner = Target::parse(arguments.target)?.owner(service).await?;
    let path = row::text(&owner, "owner");
    let before = row::text(&owner, "state");
    let proxy = service.owner(path).await?;
    let options = Options::from([("force", arguments.force.into())]);
    service
        .call_method::<_, ()>(proxy.inner(), "Suspend", &(options,))
        .await
        .map_err(|error| error.with_force(&format!("vmlockctl suspend --force {argument}")))?;
    let locks = service.suspended_locks(&owner).await?;
    let outcome = match (before, locks.as_slice()) {
        ("suspended", _) => "is suspended already; it has released",
        (_, []) => "holds no locks; it is not suspended",
        _ => "is suspended; it has released",
    };
    output::print_result(format, &format_outcome(format, &owner, outcome, &locks))?;
    Ok(Exit::SUCCESS)
}

/// Formats the owner, the outcome of the command, and the locks that it released or acquired.
pub(crate) fn format_outcome(
    format: OutputFormat,
    owner: &Row,
    outcome: &str,
    locks: &[Row],
) -> String {
    let word = |key| row::text(owner, key);
    if format == OutputFormat::Json {
        let (owner, uuid, name) = (word("owner"), word("uuid"), word("name"));
        let locks = json::objects(locks);
        let object = json!({ "owner": owner, "uuid": uuid, "name": name, "locks": locks });
        return json::document(&object);
    }
    let table = lock_table(locks);
    let (colon, table) =
        if locks.is_empty() { ("", String::new()) } else { (":", table.to_string()) };
    let name = shown(word("name"));
    format!("VM \"{name}\" ({}) {outcome}{colon}\n{table}", word("uuid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::{OwnedVariant, Variant};

    fn row<const N: usize>(entries: [(&str, &str); N]) -> Row {
        let owned = |text: &str| OwnedVariant::try_from(Variant::from(text)).unwrap();
        entries.map(|(key, value)| (key.to_owned(), owned(value))).into()
    }

    #[test]
    fn the_outcome_names_the_owner_and_its_locks() {
        let owner = row([("owner", "/o"), ("uuid", "4dea"), ("name", "we\nb1")]);
        let locks = [row([("mode", "shared"), ("resource", "/a")])];
        let text =
            format_outcome(OutputFormat::Text, &owner, "is suspended; it has released", &locks);
        let expected = "VM \"we\\nb1\" (4dea) is suspended; it has released:\n\
                        MODE    RESOURCE\nshared  /a\n";
        assert_eq!(text, expected);
        let text =
            format_outcome(OutputFormat::Text, &owner, "holds no locks; it is not suspended", &[]);
        assert_eq!(text, "VM \"we\\nb1\" (4dea) holds no locks; it is not suspended\n");
        let json = format_outcome(OutputFormat::Json, &owner, "", &locks);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["locks"][0]["resource"], "/a");
        assert_eq!((&json["owner"], &json["name"]), (&"/o".into(), &"we\nb1".into()));
    }
}
