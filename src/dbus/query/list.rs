//! `ListOwners`, `ListLocks` and `ListWaiting`: their options, and the size of one reply.
//!
//! Without the options `after` and `limit` a caller receives the complete list or an error, so that
//! no list is truncated without notice. With one of them it receives as many rows as fit into a
//! reply, and repeats the call with `after` until a page is empty.

use tokio::sync::OwnedSemaphorePermit;
use zbus::message::Header;

use crate::auth::authorizer::Call;
use crate::dbus::context::Context;
use crate::dbus::error::Error;
use crate::dbus::reply::dictionary::{
    encode_lock, encode_owner, encode_suspended, encode_waiting, lock_file,
};
use crate::dbus::reply::large::{REPLY_MAX, Reply, Rows, run_blocking};
use crate::dbus::request::options::{Options, RawOptions};
use crate::lock::Want;
use crate::lock::model::refusal::Holder;
use crate::paths;
use crate::service::facade::list::{
    Filter, LockRow, OwnerRow, OwnerSummary, SuspendedRow, WaitingRow,
};
use crate::service::verify::name_states::{NameAnswer, NameQuestion};

/// An upper bound of the size of the keys, types and fixed values of a row of `ListOwners`, in
/// bytes.
const OWNER_FRAME: usize = 400;
/// An upper bound of that size for a row of `ListLocks`, also of a suspended lock.
const LOCK_FRAME: usize = 720;
/// An upper bound of the size that the state of a name adds.
const NAME_STATE: usize = 48;
/// An upper bound of the size that a conflict adds.
const CONFLICT: usize = 24;
/// An upper bound of that size for a row of `ListWaiting`.
const WAITING_FRAME: usize = 520;
/// An upper bound of the size that a reservation adds to a row of `ListWaiting`.
const RESERVED_FRAME: usize = 264;
/// An upper bound of the size that the key `why` adds, without its text.
const WHY_FRAME: usize = 24;
/// The number of rows beyond which a list never fits into one reply.
const ROWS_MAX: usize = REPLY_MAX / 512;

/// The part of a list that is requested.
#[derive(Debug)]
struct Page {
    /// Whether the caller reads the list page by page.
    paged: bool,
    limit: usize,
}

impl Page {
    fn parse(options: &mut Options, paged: bool) -> Result<Self, Error> {
        let limit = options.limit()?;
        let paged = paged || limit.is_some();
        // One row more than fits, to detect that the list does not fit.
        Ok(Self { paged, limit: limit.unwrap_or(ROWS_MAX).min(ROWS_MAX) + usize::from(!paged) })
    }

    /// Truncates a page to the size limit of a reply; the first row always fits.
    fn truncate<R>(
        &self,
        rows: &mut Vec<R>,
        size_bound: impl Fn(&R) -> usize,
    ) -> Result<(), Error> {
        let mut bytes = 0;
        let fits = |row: &R| {
            bytes += size_bound(row);
            bytes <= REPLY_MAX
        };
        let fit = rows.iter().map(fits).take_while(|fits| *fits).count();
        if self.paged {
            rows.truncate(fit.max(1));
            return Ok(());
        }
        if fit < rows.len() || rows.len() > ROWS_MAX { Err(too_large()) } else { Ok(()) }
    }
}

fn too_large() -> Error {
    Error::limit_exceeded(format!(
        "the list is larger than {} MiB: read it in pages with the options 'limit' and 'after'",
        REPLY_MAX >> 20
    ))
}

/// Parses the options that `ListLocks` and `ListWaiting` share.
fn parse_filter(
    options: &mut Options,
    after: Option<u64>,
    page: &Page,
    call: &Call<'_>,
) -> Result<Filter, Error> {
    Ok(Filter {
        after: after.unwrap_or_default(),
        limit: page.limit,
        owner: options.owner("owner")?,
        resource: options.text("resource")?,
        user: call.viewer().only_user(),
    })
}

/// Implements `ListOwners`.
///
/// # Errors
///
/// `InvalidArgs`.
pub(crate) async fn list_owners(
    context: &Context,
    call: &Call<'_>,
    raw: RawOptions,
    header: &Header<'_>,
) -> Result<Reply, Error> {
    let mut options = Options::new(raw);
    let after = options.owner("after")?;
    let page = Page::parse(&mut options, after.is_some())?;
    options.finish()?;
    let (service, user) = (context.service.clone(), call.viewer().only_user());
    let collect = move || {
        let mut rows = service.list_owners(after, page.limit, user);
        page.truncate(&mut rows, owner_size_bound)?;
        Ok(rows)
    };
    let encode = |rows| Ok(Rows { rows, encode: |row| vec![encode_owner(row)] });
    Ok(context.large_reply(&call.caller, header, collect, encode).await)
}

/// Implements `ListLocks`.
///
/// # Errors
///
/// `InvalidArgs`; `AccessDenied` if the caller has disconnected while it waited for a lookup of
/// names.
pub(crate) async fn list_locks(
    context: &Context,
    call: &Call<'_>,
    raw: RawOptions,
    header: &Header<'_>,
) -> Result<Reply, Error> {
    let mut options = Options::new(raw);
    let suspended = options.flag("suspended")?;
    let check_names = options.flag("check-names")?;
    let after = options.number("after", paths::lock_number)?;
    let page = Page::parse(&mut options, after.is_some())?;
    let filter = parse_filter(&mut options, after, &page, call)?;
    options.finish()?;
    if suspended && filter.owner.is_none() {
        return Err(Error::invalid("option 'suspended' needs the option 'owner'"));
    }
    let service = context.service.clone();
    if let Some(owner) = filter.owner.filter(|_| suspended) {
        let collect = move || {
            let mut rows = service.list_suspended(owner, &filter);
            page.truncate(&mut rows, suspended_size_bound)?;
            Ok(rows)
        };
        let encode = |rows| Ok(Rows { rows, encode: |row| vec![encode_suspended(row)] });
        return Ok(context.large_reply(&call.caller, header, collect, encode).await);
    }
    let encode = |rows| Ok(Rows { rows, encode: |row| vec![encode_lock(row)] });
    if check_names {
        let (_permit, rows) = look_up_names(context, call, filter).await?;
        let collect = move || {
            let mut rows = rows.finish();
            page.truncate(&mut rows, lock_size_bound)?;
            Ok(rows)
        };
        return Ok(context.large_reply(&call.caller, header, collect, encode).await);
    }
    let collect = move || {
        let mut rows = service.list_locks(&filter);
        page.truncate(&mut rows, lock_size_bound)?;
        Ok(rows)
    };
    Ok(context.large_reply(&call.caller, header, collect, encode).await)
}

/// Rows of locks, and the states of their names.
struct NamedRows {
    rows: Vec<LockRow>,
    states: NameAnswer,
}

impl NamedRows {
    fn finish(self) -> Vec<LockRow> {
        let Self { mut rows, states } = self;
        for (row, state) in rows.iter_mut().zip(states.states()) {
            row.name_state = state;
        }
        rows
    }
}

/// Looks up the names of locks. This comes before the permit for the reply, since a lookup that
/// hangs must not delay replies to others. A user has one such lookup in progress.
async fn look_up_names(
    context: &Context,
    call: &Call<'_>,
    filter: Filter,
) -> Result<(OwnedSemaphorePermit, NamedRows), Error> {
    let uid = call.uid();
    let permit = context.replies.acquire_lookup(uid).await?;
    if !call.caller.is_connected() {
        return Err(crate::auth::Error::CallerGone.into());
    }
    context.service.renew_stacks_for_query().await;
    let service = context.service.clone();
    let list = move || {
        let rows = service.list_locks(&filter);
        let question = NameQuestion::new(uid, rows.iter().map(|row| &*row.lock));
        Ok((rows, question))
    };
    let (rows, question) = run_blocking(list).await?;
    let states = context.service.name_states(question).await;
    Ok((permit, NamedRows { rows, states }))
}

/// Implements `ListWaiting`.
///
/// # Errors
///
/// `InvalidArgs`.
pub(crate) async fn list_waiting(
    context: &Context,
    call: &Call<'_>,
    raw: RawOptions,
    header: &Header<'_>,
) -> Result<Reply, Error> {
    let mut options = Options::new(raw);
    let after = options.number("after", |_| None)?;
    let page = Page::parse(&mut options, after.is_some())?;
    let filter = parse_filter(&mut options, after, &page, call)?;
    options.finish()?;
    let (service, viewer) = (context.service.clone(), call.viewer());
    let collect = move || {
        let mut rows = service.list_waiting(&filter);
        for WaitingRow { reserved, .. } in &mut rows {
            reserved.retain(|(_, holder)| viewer.may_see(holder.owner.uid));
        }
        page.truncate(&mut rows, waiting_size_bound)?;
        Ok(rows)
    };
    let encode = |rows| Ok(Rows { rows, encode: encode_waiting });
    Ok(context.large_reply(&call.caller, header, collect, encode).await)
}

fn owner_size_bound(row: &OwnerRow) -> usize {
    let anchors: usize = row.anchors.iter().map(|anchor| anchor.as_str().len() + 8).sum();
    OWNER_FRAME + row.name.len() + why_size_bound(&row.why) + anchors
}

fn why_size_bound(why: &str) -> usize {
    if why.is_empty() { 0 } else { WHY_FRAME + why.len() }
}

fn summary_size_bound(owner_summary: &OwnerSummary) -> usize {
    owner_summary.name.len() + why_size_bound(&owner_summary.why)
}

fn lock_size_bound(row: &LockRow) -> usize {
    let want = &row.lock.want;
    let name_state = if row.name_state.is_some() { NAME_STATE } else { 0 };
    let conflict = if row.conflict { CONFLICT } else { 0 };
    let names =
        summary_size_bound(&row.owner_summary) + want.resource.len() + lock_file(want).len();
    LOCK_FRAME + name_state + conflict + names
}

fn suspended_size_bound(row: &SuspendedRow) -> usize {
    let file = lock_file(&row.want).len();
    LOCK_FRAME + summary_size_bound(&row.owner_summary) + row.want.resource.len() + file
}

fn waiting_size_bound(row: &WaitingRow) -> usize {
    let owner_summary = summary_size_bound(&row.owner_summary);
    let want = |want: &Want| WAITING_FRAME + owner_summary + want.resource.len();
    let reserved = |(_, holder): &(usize, Holder)| RESERVED_FRAME + holder.name.len();
    let wants: usize = row.waiter.wants.iter().map(want).sum();
    wants + row.reserved.iter().map(reserved).sum::<usize>()
}

#[cfg(test)]
mod tests;
