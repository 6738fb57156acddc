//! The service as its users meet it: real buses, real polkit, real locks, real tools.
//!
//! One binary, so that it is linked once; a module for each promise. [`house`] builds what a test
//! runs in, [`machine`] says briefly what clients say.

mod acquire;
mod contract;
mod house;
mod layering;
mod machine;
mod owners;
