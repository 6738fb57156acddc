//! vmlockd locks the disks of virtual machines for as long as the machines live.

pub mod lock;

pub mod life;

pub mod service;

pub mod auth;
