//! Under construction.
mod error;
pub use error::RegistryError;
