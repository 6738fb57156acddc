//! Two hosts and the disks that a third machine serves them over the network: what one has locked,
//! the other is refused, whatever version of NFS they speak; and what becomes of it when a host
//! is no more.

mod between;
mod doctor;
mod ending;
mod hosts;
