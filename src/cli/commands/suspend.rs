//! `suspend`: an owner releases its locks, and the service remembers them for `resume`.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::json;
use crate::cli::format::row;
use crate::cli::format::table::{Lean, Table};
use crate::cli::target::{self, Target};
use crate::cli::terminal::output::{self, Form};
use crate::client::{Options, Row, lists};
use crate::lock::printable::shown_path;

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
pub(crate) async fn perform(link: &Link, arguments: Arguments, form: Form) -> Result<Code, Error> {
    let written = shown_path(Path::new(&arguments.target));
    let owner = Target::parse(arguments.target)?.owner(link).await?;
    let path = row::text(&owner, "owner");
    let before = row::text(&owner, "state");
    let proxy = link.owner(path).await?;
    let options = Options::from([("force", arguments.force.into())]);
    link.ask::<_, ()>(proxy.inner(), "Suspend", &(options,))
        .await
        .map_err(|error| error.with_force(&format!("vmlockctl suspend --force {written}")))?;
    let locks = suspended_locks(link, &owner).await?;
    let outcome = match (before, locks.as_slice()) {
        ("suspended", _) => "is suspended already; it has released",
        (_, []) => "holds no locks; it is not suspended",
        _ => "is suspended; it has released",
    };
    output::report(form, &report(form, &owner, outcome, &locks))?;
    Ok(Code::SUCCESS)
}

/// Lists what a suspended owner has released and gets again when it is resumed.
pub(crate) async fn suspended_locks(link: &Link, owner: &Row) -> Result<Vec<Row>, Error> {
    let Some(path) = row::path(owner, "owner") else { return Ok(Vec::new()) };
    let mut filter = lists::path_option("owner", path);
    filter.insert("suspended", true.into());
    Ok(lists::locks(&link.manager().await?, filter).await?)
}

/// What is printed: the owner, what has become of it, and the locks that this is about.
pub(crate) fn report(form: Form, owner: &Row, outcome: &str, locks: &[Row]) -> String {
    let word = |key| row::text(owner, key);
    if form == Form::Json {
        let (owner, uuid, name) = (word("owner"), word("uuid"), word("name"));
        let locks = json::objects(locks);
        let object = json!({ "owner": owner, "uuid": uuid, "name": name, "locks": locks });
        return json::document(&object);
    }
    // The column of numbers is not shown for locks that have none.
    let mut table =
        Table::new([("LOCK", Lean::Right), ("MODE", Lean::Left), ("RESOURCE", Lean::Left)]);
    for lock in locks {
        let word = |key| row::text(lock, key).to_owned();
        table.push([row::lock_number(lock), word("mode"), word("resource")]);
    }
    let (colon, table) =
        if locks.is_empty() { ("", String::new()) } else { (":", table.to_string()) };
    let name = crate::lock::printable::shown(word("name"));
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
    fn a_report_names_the_owner_and_its_locks() {
        let owner = row([("owner", "/o"), ("uuid", "4dea"), ("name", "we\nb1")]);
        let locks = [row([("mode", "shared"), ("resource", "/a")])];
        let text = report(Form::Text, &owner, "is suspended; it has released", &locks);
        let expected = "VM \"we\\nb1\" (4dea) is suspended; it has released:\n\
                        MODE    RESOURCE\nshared  /a\n";
        assert_eq!(text, expected);
        let text = report(Form::Text, &owner, "holds no locks; it is not suspended", &[]);
        assert_eq!(text, "VM \"we\\nb1\" (4dea) holds no locks; it is not suspended\n");
        let json = report(Form::Json, &owner, "", &locks);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["locks"][0]["resource"], "/a");
        assert_eq!((&json["owner"], &json["name"]), (&"/o".into(), &"we\nb1".into()));
    }
}
