//! Families, weights, and each layer's forward and backward.

pub mod config;
pub mod weights;
