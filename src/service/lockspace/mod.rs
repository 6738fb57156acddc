//! Lockspaces: the ones that clients create ([`lockspaces`]), named leases in them ([`leases`]),
//! the lock self-test of each directory ([`check`]), and this host's presence file in each
//! ([`presence`]).

pub(super) mod check;
pub(super) mod leases;
pub(super) mod lockspaces;
pub(super) mod presence;
