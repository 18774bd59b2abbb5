//! The engine of tinylora: everything from recipe to checkpoint.
//!
//! Modules stand in the order in which data flows; a module imports only from modules listed
//! before it (`cargo xtask tidy` checks this).

pub mod atomic_file;

pub mod random;

pub mod statistics;

pub mod recipe;

pub mod hub;

pub mod gguf;

pub mod tokenizer;

pub mod data;

pub mod model;

pub mod adapter;

pub mod base;

pub mod interop;

pub mod inference;

pub mod rollout;

pub mod reward;

pub mod advantage;

pub mod gradient;

pub mod optimizer;

pub mod checkpoint;

pub mod run_folder;

pub mod publish;

pub mod evaluate;

pub mod collect;

pub mod train;

pub mod bench;

pub mod sweep;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
