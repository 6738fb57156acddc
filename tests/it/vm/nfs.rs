//! Two hosts with disks on an NFS server: a disk that is locked on one is refused on the other,
//! with each version of NFS; and the locks of a host that has ended.

mod between;
mod doctor;
mod ending;
mod hosts;
