//! CUDA: a driver's library enters, a device with memory of a fixed budget, kernels and operations on it leave. Nothing here
//! knows a model, and no toolkit is needed to build it: the driver is looked for at run time, and where there is none,
//! [`Device::open`] says so.
//!
//! The kernels stand in `kernels/`; docs/cuda.md tells what is proven of them and how.

pub mod attention;
mod device;
mod driver;
mod error;
pub mod gradients;
mod graph;
pub mod head;
mod images;
mod memory;
mod nvrtc;
pub mod optimizer;
pub mod product;
mod queue;
pub mod rows;
mod staging;
mod tensor_map;
pub mod thin;

pub use device::{Argument, Device, Launch};
pub use error::CudaError;
pub use graph::Graph;
pub use images::{HEAD_SIZES, Images, padded_head};
pub use memory::DeviceBuffer;
pub use queue::Fetched;
pub use staging::Staging;

#[cfg(test)]
mod tests;
