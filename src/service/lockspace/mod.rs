//! Lockspaces: those that clients create ([`lockspaces`]) and their lookup ([`lookup`]), leases in
//! them ([`leases`]), the lock self-test of each directory ([`check`]), and this host's presence
//! file in each ([`presence`]).

pub(super) mod check;
mod leases;
pub(super) mod lockspaces;
mod lookup;
mod presence;
