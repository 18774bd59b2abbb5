//! The device layer of CUDA: a driver's library enters, a device with memory of a fixed budget and loaded kernels leaves.
//! Nothing here knows an operation's meaning or a model, and no toolkit is needed to build it: the driver is looked
//! for at run time, and where there is none, [`Device::open`] says so.
//!
//! The kernels stand in `kernels/`; docs/cuda.md tells what is proven of them and how. The engine doesn't use
//! this layer yet.

mod device;
mod driver;
mod error;
mod images;

pub use device::{Argument, Device, DeviceBuffer, Launch};
pub use error::CudaError;
pub use images::{HEAD_SIZES, Images, padded_head};

#[cfg(test)]
mod tests;
