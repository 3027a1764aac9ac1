//! What several plugins ask for, made into one: in the order of the plugins, each seeing what those
//! before it changed, and no two changing the same thing. Pure.
//!
//! A name with a dash before it removes: what it removes from another plugin's wishes, it may then set
//! itself. Everything else that two plugins set is refused, with the names of both.

mod adjust;
mod list;
mod owners;
mod resources;
mod updates;

#[cfg(test)]
mod tests;

pub use list::removed;
pub use owners::Conflict;

pub(crate) use adjust::Creation;
pub(crate) use updates::Updates;
