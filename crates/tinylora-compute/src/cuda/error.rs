//! What can go wrong between this program and a GPU, each with what to do about it.

use std::path::PathBuf;

/// Why something can't be done on the GPU.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// No library of the driver.
    #[error("no NVIDIA driver was found ({reason}): install it, or use the cpu device")]
    NoDriver {
        /// What the system says.
        reason: String,
    },
    /// The driver lacks a function, or is older than what the kernels are compiled for.
    #[error("the NVIDIA driver is too old ({found}): CUDA 13.0 is needed, update the driver to 580 or newer")]
    OldDriver {
        /// Its version, or the function that it lacks.
        found: String,
    },
    /// A driver, but no GPU.
    #[error("the NVIDIA driver finds no GPU: use the cpu device")]
    NoDevice,
    /// There are fewer GPUs.
    #[error("GPU {number} was asked for, but there are {count}, counted from 0")]
    NoSuchDevice {
        /// The one wanted.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// A GPU without bf16 products.
    #[error(
        "{name} has compute capability {major}.{minor}, which is not supported: 8.0 (Ampere), 8.6, 8.9, 9.0 or \
         12.0 and newer are; use the cpu device"
    )]
    Unsupported {
        /// Its name.
        name: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// Products on an instruction that the GPU hasn't.
    #[error(
        "TINYLORA_CUDA_PRODUCTS=wgmma: {name} has no such instruction, which GPUs of compute capability 9.0 (Hopper) have \
         alone, and is one of {architecture}; leave it out, or set it to mma"
    )]
    NoWgmma {
        /// The GPU's name.
        name: String,
        /// What its machine code is made for.
        architecture: &'static str,
    },
    /// More memory than the budget has.
    #[error(
        "{what} needs {wanted} bytes on the GPU, but {used} of the budget of {budget} are in use: lower the batch \
         (rollout.max_batch), model.memory or the length of sequences, or raise the budget (TINYLORA_GPU_MEMORY)"
    )]
    OutOfBudget {
        /// What it was for.
        what: String,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes in use.
        used: usize,
        /// Bytes that may be.
        budget: usize,
    },
    /// The budget allows it, but the GPU has no such memory left.
    #[error(
        "{what} needs {wanted} bytes on the GPU, which has {free} left, with {used} in use here: other programs hold \
         the rest; end them, or lower the batch or the budget"
    )]
    OutOfMemory {
        /// What it was for.
        what: String,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes in use here.
        used: usize,
        /// Bytes that the GPU has left.
        free: usize,
    },
    /// No machine code for a kernel.
    #[error("no machine code for {unit} on {architecture}: {} can't be read ({source})", file.display())]
    Image {
        /// File of kernels.
        unit: String,
        /// Kind of GPU.
        architecture: &'static str,
        /// Where it was looked for.
        file: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// No compiler for kernels.
    #[error(
        "the kernels are not compiled yet, and NVIDIA's compiler library was not found: install it with `pip install \
         nvidia-cuda-nvrtc` in the virtual environment in use, or with the CUDA toolkit 13, or name it in TINYLORA_NVRTC \
         (looked for: {searched}){}", if reasons.is_empty() { String::new() } else { format!("; {reasons}") }
    )]
    NoCompiler {
        /// Where it was looked for.
        searched: String,
        /// Why those that are there don't load.
        reasons: String,
    },
    /// The compiler refuses our own kernels.
    #[error("NVIDIA's compiler library refuses {file}: {log}")]
    Compiler {
        /// File of kernels.
        file: String,
        /// What it says.
        log: String,
    },
    /// No such kernel.
    #[error("no file of kernels has {name}")]
    NoKernel {
        /// Its name.
        name: String,
    },
    /// Any other error of the driver.
    #[error("{call} failed with error {code} of the NVIDIA driver{}", meaning(*code))]
    Driver {
        /// The function.
        call: &'static str,
        /// Its result.
        code: i32,
    },
}

/// What the codes mean that one meets.
fn meaning(code: i32) -> &'static str {
    match code {
        1 => ": an argument that it doesn't take",
        2 => ": out of memory",
        209 | 218 => ": machine code that it can't load",
        700 => ": a kernel touched memory that isn't its own",
        701 => ": a kernel wants more registers or shared memory than a block may have",
        719 => ": a kernel failed",
        _ => "",
    }
}
