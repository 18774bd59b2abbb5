//! CUDA: a driver's library enters, a device with memory of a fixed budget, kernels and operations on it leave. Nothing here
//! knows a model, and no toolkit is needed to build it: the driver is looked for at run time, and where there is none,
//! [`Device::open`] says so.
//!
//! The kernels stand in `kernels/`; docs/cuda.md tells what is proven of them and how.

pub mod attention;
mod device;
mod driver;
mod error;
pub mod head;
mod images;
mod nvrtc;
pub mod product;
pub mod rows;
mod staging;

pub use device::{Argument, Device, DeviceBuffer, Launch};
pub use error::CudaError;
pub use images::{HEAD_SIZES, Images, padded_head};
pub use staging::Staging;

#[cfg(test)]
mod tests;
