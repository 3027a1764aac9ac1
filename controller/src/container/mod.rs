//! Under construction.

pub mod users;
