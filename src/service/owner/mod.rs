//! Owners: opening ([`open`]), registration of running VMs ([`register`]), the anchors that keep an
//! owner alive and whose end ends it ([`anchors`]), and the on-lost action ([`loss_action`]).

pub(super) mod anchors;
pub mod lifelines;
pub(super) mod loss_action;
pub(super) mod open;
pub(super) mod register;
