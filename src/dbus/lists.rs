//! `ListOwners`, `ListLocks` and `ListWaiting`: their options, and how much one reply has.
//!
//! Without `after` and `limit` a caller gets all or an error, so that no list is cut without a word.
//! With one of them it gets as much as fits, and asks again with `after` until a page is empty.

use tokio::sync::OwnedSemaphorePermit;
use zbus::message::Header;

use super::bulk::{REPLY_MAX, Reply, Rows, on_thread};
use super::error::Error;
use super::facts;
use super::front::Front;
use super::options::{Options, Raw};
use super::waiting;
use crate::auth::authorizer::Call;
use crate::lock::holder::Holder;
use crate::lock::{OwnerId, Want};
use crate::paths;
use crate::service::list::{Filter, LockRow, OwnerRow, SuspendedRow, WaitingRow, Whose};
use crate::service::name_states::{NameAnswer, NameQuestion};

/// What the keys, the types and the fixed values of a row of `ListOwners` have at most, in bytes.
const OWNER_FRAME: usize = 400;
/// The same of a row of `ListLocks`, also of a suspended lock.
const LOCK_FRAME: usize = 720;
/// What the state of a name adds to it.
const NAME_STATE: usize = 48;
/// What a conflict adds to it.
const CONFLICT: usize = 24;
/// The same of a row of `ListWaiting`.
const WAITING_FRAME: usize = 520;
/// What a row of `ListWaiting` has more where the resource is reserved.
const RESERVED_FRAME: usize = 264;
/// What the key `why` adds to a row that has it, in bytes, without its text.
const WHY_FRAME: usize = 24;
/// More rows than that never fit into one reply.
const ROWS_MAX: usize = REPLY_MAX / 512;

/// Which part of a list is asked for.
#[derive(Debug)]
struct Page {
    /// Whether the caller asks page by page.
    paged: bool,
    limit: usize,
}

impl Page {
    fn take(options: &mut Options, paged: bool) -> Result<Self, Error> {
        let limit = options.limit()?;
        let paged = paged || limit.is_some();
        // One more than fits, to know that it does not.
        Ok(Self { paged, limit: limit.unwrap_or(ROWS_MAX).min(ROWS_MAX) + usize::from(!paged) })
    }

    /// Cuts a page to what one reply may have; the first row always fits.
    fn cut<R>(&self, rows: &mut Vec<R>, weight: impl Fn(&R) -> usize) -> Result<(), Error> {
        let mut bytes = 0;
        let fits = |row: &R| {
            bytes += weight(row);
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
    Error::too_much(format!(
        "the list is larger than {} MiB: read it in pages with the options 'limit' and 'after'",
        REPLY_MAX >> 20
    ))
}

/// The options that `ListLocks` and `ListWaiting` share.
fn filter(
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

/// Answers `ListOwners`.
pub(super) async fn owners(front: &Front, call: &Call<'_>, raw: Raw, header: &Header<'_>) -> Reply {
    let asked = || -> Result<(Option<OwnerId>, Page), Error> {
        let mut options = Options::new(raw);
        let after = options.owner("after")?;
        let page = Page::take(&mut options, after.is_some())?;
        options.finish()?;
        Ok((after, page))
    };
    let (after, page) = match asked() {
        Ok(asked) => asked,
        Err(error) => return error.into(),
    };
    let (service, user) = (front.service.clone(), call.viewer().only_user());
    let collect = move || {
        let mut rows = service.list_owners(after, page.limit, user);
        page.cut(&mut rows, weight_of_owner)?;
        Ok(rows)
    };
    let write = |rows| Ok(Rows { rows, facts: |row| vec![facts::of_owner(row)] });
    front.bulk_reply(&call.caller, header, collect, write).await
}

/// Answers `ListLocks`.
pub(super) async fn locks(front: &Front, call: &Call<'_>, raw: Raw, header: &Header<'_>) -> Reply {
    let asked = || -> Result<(Filter, Page, bool, bool), Error> {
        let mut options = Options::new(raw);
        let suspended = options.flag("suspended")?;
        let check_names = options.flag("check-names")?;
        let after = options.number("after", paths::lock_number)?;
        let page = Page::take(&mut options, after.is_some())?;
        let filter = filter(&mut options, after, &page, call)?;
        options.finish()?;
        if suspended && filter.owner.is_none() {
            return Err(Error::invalid("option 'suspended' needs the option 'owner'"));
        }
        Ok((filter, page, suspended, check_names))
    };
    let (filter, page, suspended, check_names) = match asked() {
        Ok(asked) => asked,
        Err(error) => return error.into(),
    };
    let service = front.service.clone();
    if let Some(owner) = filter.owner.filter(|_| suspended) {
        let collect = move || {
            let mut rows = service.list_suspended(owner, &filter);
            page.cut(&mut rows, weight_of_suspended)?;
            Ok(rows)
        };
        let write = |rows| Ok(Rows { rows, facts: |row| vec![facts::of_suspended(row)] });
        return front.bulk_reply(&call.caller, header, collect, write).await;
    }
    let write = |rows| Ok(Rows { rows, facts: |row| vec![facts::of_lock(row)] });
    if check_names {
        let (_turn, rows) = match with_names(front, call, filter).await {
            Ok(looked_up) => looked_up,
            Err(error) => return error.into(),
        };
        let collect = move || {
            let mut rows = rows.finish();
            page.cut(&mut rows, weight_of_lock)?;
            Ok(rows)
        };
        return front.bulk_reply(&call.caller, header, collect, write).await;
    }
    let collect = move || {
        let mut rows = service.list_locks(&filter);
        page.cut(&mut rows, weight_of_lock)?;
        Ok(rows)
    };
    front.bulk_reply(&call.caller, header, collect, write).await
}

/// Rows of locks, and where their names lead.
struct Checked {
    rows: Vec<LockRow>,
    states: NameAnswer,
}

impl Checked {
    fn finish(self) -> Vec<LockRow> {
        let Self { mut rows, states } = self;
        for (row, state) in rows.iter_mut().zip(states.states()) {
            row.name_state = state;
        }
        rows
    }
}

/// Looks up the names of locks before the reply gets its turn: a lookup that hangs must not delay the
/// replies to others. A user has one such list at a time.
async fn with_names(
    front: &Front,
    call: &Call<'_>,
    filter: Filter,
) -> Result<(OwnedSemaphorePermit, Checked), Error> {
    let uid = call.uid();
    let turn = front.bulk.turn_to_look_up(uid).await?;
    if !call.caller.is_connected() {
        return Err(crate::auth::Error::CallerGone.into());
    }
    front.service.renew_stacks_soon().await;
    let service = front.service.clone();
    let list = move || {
        let rows = service.list_locks(&filter);
        let question = NameQuestion::new(uid, rows.iter().map(|row| &*row.lock));
        Ok((rows, question))
    };
    let (rows, question) = on_thread(list).await?;
    let states = front.service.name_states(question).await;
    Ok((turn, Checked { rows, states }))
}

/// Answers `ListWaiting`.
pub(super) async fn waiting(
    front: &Front,
    call: &Call<'_>,
    raw: Raw,
    header: &Header<'_>,
) -> Reply {
    let asked = || -> Result<(Filter, Page), Error> {
        let mut options = Options::new(raw);
        let after = options.number("after", |_| None)?;
        let page = Page::take(&mut options, after.is_some())?;
        let filter = filter(&mut options, after, &page, call)?;
        options.finish()?;
        Ok((filter, page))
    };
    let (filter, page) = match asked() {
        Ok(asked) => asked,
        Err(error) => return error.into(),
    };
    let (service, viewer) = (front.service.clone(), call.viewer());
    let collect = move || {
        let mut rows = service.list_waiting(&filter);
        for WaitingRow { reserved, .. } in &mut rows {
            reserved.retain(|(_, holder)| viewer.may_see(holder.owner.uid));
        }
        page.cut(&mut rows, weight_of_waiting)?;
        Ok(rows)
    };
    let write = |rows| Ok(Rows { rows, facts: waiting::of_waiter });
    front.bulk_reply(&call.caller, header, collect, write).await
}

fn weight_of_owner(row: &OwnerRow) -> usize {
    let anchors: usize = row.anchors.iter().map(|anchor| anchor.as_str().len() + 8).sum();
    OWNER_FRAME + row.name.len() + weight_of_why(&row.why) + anchors
}

fn weight_of_why(why: &str) -> usize {
    if why.is_empty() { 0 } else { WHY_FRAME + why.len() }
}

fn weight_of_whose(whose: &Whose) -> usize {
    whose.name.len() + weight_of_why(&whose.why)
}

fn weight_of_lock(row: &LockRow) -> usize {
    let want = &row.lock.want;
    let name_state = if row.name_state.is_some() { NAME_STATE } else { 0 };
    let conflict = if row.conflict { CONFLICT } else { 0 };
    let names = weight_of_whose(&row.whose) + want.resource.len() + facts::lock_file(want).len();
    LOCK_FRAME + name_state + conflict + names
}

fn weight_of_suspended(row: &SuspendedRow) -> usize {
    let file = facts::lock_file(&row.want).len();
    LOCK_FRAME + weight_of_whose(&row.whose) + row.want.resource.len() + file
}

fn weight_of_waiting(row: &WaitingRow) -> usize {
    let whose = weight_of_whose(&row.whose);
    let want = |want: &Want| WAITING_FRAME + whose + want.resource.len();
    let reserved = |(_, holder): &(usize, Holder)| RESERVED_FRAME + holder.name.len();
    let wants: usize = row.waiter.wants.iter().map(want).sum();
    wants + row.reserved.iter().map(reserved).sum::<usize>()
}

#[cfg(test)]
mod tests;
