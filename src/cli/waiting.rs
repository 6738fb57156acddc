//! `waiting`: who waits for what.

use zbus::Variant;

use super::error::{Code, Error};
use super::link::Link;
use super::output::{Form, print, say};
use super::table::{Lean, Table};
use super::{json, row};
use crate::client::{Options, Row};

/// Does it.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let waiters = link.manager().await?.list_waiting(Options::new()).await?;
    if form == Form::Json {
        print(&json::document(&json::objects(&waiters)))?;
        return Ok(Code::SUCCESS);
    }
    if waiters.is_empty() {
        say("nobody waits");
        return Ok(Code::SUCCESS);
    }
    print(&table(&waiters))?;
    Ok(Code::SUCCESS)
}

/// A line for each resource; what is the same for all of one request stands in the first.
fn table(waiters: &[Row]) -> String {
    let mut table = Table::new([
        ("PLACE", Lean::Right),
        ("VM", Lean::Left),
        ("OWNER", Lean::Left),
        ("USER", Lean::Left),
        ("PID", Lean::Right),
        ("MODE", Lean::Left),
        ("RESOURCE", Lean::Left),
        ("SINCE", Lean::Left),
    ]);
    for waiter in waiters {
        for (n, (resource, mode)) in resources(waiter).into_iter().enumerate() {
            let once = |cell: String| if n == 0 { cell } else { String::new() };
            table.push([
                once(row::number(waiter, "position").to_string()),
                once(row::text(waiter, "name").to_owned()),
                once(row::short_uuid(waiter)),
                once(row::user(waiter)),
                once(row::pid(waiter)),
                mode,
                resource,
                once(row::since(waiter)),
            ]);
        }
    }
    table.to_string()
}

/// What it waits for, and how that shall be held.
fn resources(waiter: &Row) -> Vec<(String, String)> {
    let Some(Variant::Array(pairs)) = waiter.get("resources").map(|value| &**value) else {
        return Vec::new();
    };
    let pair = |value: &Variant<'_>| match value {
        Variant::Structure(pair) => match pair.fields() {
            [Variant::Str(resource), Variant::Str(mode)] => {
                Some((resource.to_string(), mode.to_string()))
            }
            _ => None,
        },
        _ => None,
    };
    pairs.inner().iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::OwnedVariant;

    #[test]
    fn a_request_for_two_disks_has_two_lines() {
        let row = [
            ("position", Variant::from(1_u32)),
            ("name", "web1".into()),
            ("uuid", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".into()),
            ("resources", vec![("/a", "exclusive"), ("/b", "shared")].into()),
        ];
        let owned = |value: Variant<'_>| OwnedVariant::try_from(value).unwrap();
        let text = table(&[row.map(|(key, value)| (key.to_owned(), owned(value))).into()]);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..6], ["1", "web1", "4dea22b3", "root", "-", "exclusive"]);
        assert_eq!((lines[1][6], &lines[2][..]), ("/a", &["shared", "/b"][..]));
    }
}
