//! A handle for the CPU enters, one with GPUs beside it leaves: models that are loaded with it lie and compute there.

use super::hidden::DeviceError;
use std::path::PathBuf;
use tinylora_compute::Cpu;

/// Which GPUs, and what of them.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Counted from 0; of one kind.
    pub numbers: Vec<usize>,
    /// Bytes of the memory of each that are used at most; None: eleven twelfths of it.
    pub memory: Option<usize>,
    /// Folder for the kernels' machine code: what isn't there is compiled when it is first needed.
    pub kernels: PathBuf,
    /// The driver's library; None: the system's.
    pub driver: Option<PathBuf>,
    /// Whether decode steps are recorded as CUDA graphs and replayed. The numbers are the same without.
    pub graphs: bool,
    /// Whether products are on Hopper's `wgmma` instead of `mma.sync`; no other GPU has it. The numbers differ in bf16's last
    /// digits at most.
    pub wgmma: bool,
    /// Is told what a person should know and is no error.
    pub report: fn(&str),
}

/// Opens the GPUs.
#[cfg(feature = "cuda")]
pub fn with_gpu(cpu: Cpu, options: &GpuOptions) -> Result<Cpu, DeviceError> {
    use tinylora_compute::cuda::{Device, Images};
    let images = Images { folder: options.kernels.clone(), compile: true };
    options.numbers.iter().try_fold(cpu, |cpu, &number| {
        let device = Device::open(number, options.memory, images.clone(), options.driver.as_deref())?;
        if let Some(first) = cpu.gpu().filter(|first| first.name() != device.name()) {
            return Err(DeviceError::Mixed { first: first.name().into(), other: device.name().into() });
        }
        let device =
            device.with_graphs(options.graphs).with_wgmma(options.wgmma)?.with_report(options.report);
        Ok(cpu.with_gpu(std::sync::Arc::new(device)))
    })
}

/// Opens a GPU: not in this build.
#[cfg(not(feature = "cuda"))]
pub fn with_gpu(_: Cpu, _: &GpuOptions) -> Result<Cpu, DeviceError> {
    Err(DeviceError::NotBuilt)
}

impl DeviceError {
    /// Whether this machine has no GPU that could be used, as opposed to one that fails.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NotBuilt => true,
            #[cfg(feature = "cuda")]
            Self::Cuda(error) => {
                use tinylora_compute::cuda::CudaError::{NoDevice, NoDriver, OldDriver, Unsupported};
                matches!(error, NoDriver { .. } | OldDriver { .. } | NoDevice | Unsupported { .. })
            }
            Self::Dtype | Self::Mixture | Self::Mixed { .. } | Self::Heads { .. } => false,
        }
    }
}
