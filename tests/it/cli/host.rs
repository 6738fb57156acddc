//! `vmlockctl` with an authentication agent of its own, which needs a set-user-ID program.

pub(crate) mod agent;
