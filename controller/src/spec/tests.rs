//! Golden and table tests.
