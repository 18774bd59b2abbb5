//! Placeholder for compile.
