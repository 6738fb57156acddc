//! Owners: how they are opened ([`open`]) or register themselves ([`register`]), and how the end of
//! what keeps them ends them ([`anchors`]).

pub(super) mod anchors;
pub mod lifelines;
pub(super) mod loss_action;
pub(super) mod open;
pub(super) mod register;
