//! Whatever crashes while machines are paused or move, at every step: afterwards each disk is held
//! by exactly one side, by what is listed and by the kernel, and things go on.
//!
//! The service aborts where it was told to, in a host whose systemd keeps its descriptors; or it
//! has records alone. The machines' processes are killed between any two steps. Where disks must
//! not be free for an instant, an prober tries all the time.

mod peer;
mod scenario;
mod state_file;
mod suspensions;
mod transfers;
mod vm_deaths;
