//! Buffers and kernels of tinylora. Plain slices and packed weights enter, slices leave; this crate knows
//! no model, no file and no tokenizer, and is the only one with unsafe code.
//!
//! # The numerics contract
//!
//! Every operation fixes the order of its sums, so that a result depends on the operands alone: not on the
//! batch a row stands in, not on the number of threads, and (scalar, AVX2, AVX-512 and NEON) not on the
//! instruction set. AVX512-BF16 and AMX differ in one operation, the product with a bf16 matrix.
//!
//! - **Products**: each output element is one chain of fused multiply-adds over the inner index, ascending,
//!   starting from the bias or 0; a low-rank side path continues the chain. Operands are f32 or bf16
//!   (widened exactly), the accumulator is f32. With AVX512-BF16, products with bf16 matrices round the other
//!   operand to bf16 and the chain takes two terms at a time; with AMX likewise, thirty-two terms at a time.
//! - **Attention** reads keys and values in f32, or in half precision and bf16 where the store rounds them, widened exactly.
//! - **Reductions over a row** (norms, softmax): sixteen partial results, lane `i mod 16`, joined by a fixed
//!   tree (`i` with `i + 8`, then 4, 2, 1).
//! - **Transcendental functions** are polynomials in fused multiply-adds, see `lanes`.

pub mod account;
pub mod activation;
mod allocator;
pub mod attention;
pub mod buffer;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod head;
pub mod head_weights;
mod huge;
pub mod kernel;
mod lanes;
pub mod norm;
mod operand;
pub mod optimizer_step;
pub mod outer;
pub mod packed;
pub mod peak;
pub mod pool;
pub mod product;
pub mod recycled;
pub mod rope;
mod rounding;
pub mod rows;
#[cfg(test)]
mod testing;
mod tile;
mod tiles;
pub mod vectors;

pub use allocator::CacheLines;
pub use buffer::Buffer;
pub use kernel::{Cpu, Kernel, KernelError};
pub use packed::{PackedMatrix, Precision};
