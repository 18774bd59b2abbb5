//! Which instruction set runs, chosen once at run time, and the handle that every operation takes.

use crate::account::{Account, Clock, Operation};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Lanes, Scalar};
use crate::pool::Pool;
use crate::tiles::{EmulatedTiles, NoTiles};
use std::sync::Arc;

/// An instruction set for which kernels are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Portable Rust.
    Scalar,
    /// x86-64 AVX2 and FMA.
    Avx2,
    /// x86-64 AVX-512 F, BW and VL.
    Avx512,
    /// The same with AVX512-BF16: products with bf16 matrices round the other operand to bf16 too and multiply
    /// pairs, two terms a lane and instruction.
    Avx512Bf16,
    /// The same with AMX: such products are made in matrix tiles.
    Amx,
    /// AArch64 NEON.
    Neon,
    /// What AMX gives, in portable Rust: slow, and the same bits on every processor.
    AmxEmulated,
}

/// Why a kernel can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The name is not one of ours.
    #[error("unknown kernel {0:?}: use scalar, avx2, avx512, avx512-bf16, amx, neon or amx-emulated")]
    Unknown(String),
    /// The processor lacks it.
    #[error("kernel {wanted:?} was asked for, but this processor can run only {available:?}")]
    Absent {
        /// The name.
        wanted: &'static str,
        /// Names of those that run here.
        available: Vec<&'static str>,
    },
    /// A number of threads that makes no sense.
    #[error("number of threads {0:?}: use a whole number from 1 to 1024")]
    Threads(String),
}

impl Kernel {
    /// All kernels that a processor may be best served by, slowest first.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx, Self::Neon];

    /// The name used in `TINYLORA_KERNEL` and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::AmxEmulated => "amx-emulated",
        }
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar | Self::AmxEmulated => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512Bf16.is_available() && crate::tiles::amx_is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[allow(unreachable_patterns)] // which names are reachable depends on the architecture
            _ => false,
        }
    }

    /// Those that this processor can run.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available()).collect()
    }

    /// The fastest that this processor can run.
    pub fn best() -> Self {
        *Self::available().last().expect("scalar is always available")
    }

    /// The fastest whose products keep activations in f32: the reference for comparisons with f32 elsewhere.
    pub fn best_exact() -> Self {
        let mut fastest_first = Self::available().into_iter().rev();
        fastest_first.find(|kernel| !kernel.rounds_activations()).expect("scalar is always available")
    }

    /// Whether products with bf16 matrices round the other operand to bf16. Kernels that don't give the same bits
    /// as one another.
    pub fn rounds_activations(self) -> bool {
        matches!(self, Self::Avx512Bf16 | Self::Amx | Self::AmxEmulated)
    }

    /// Whether such products are made in matrix tiles.
    pub(crate) fn has_tiles(self) -> bool {
        matches!(self, Self::Amx | Self::AmxEmulated)
    }

    /// The kernel of that name, if this processor can run it.
    pub fn by_name(name: &str) -> Result<Self, KernelError> {
        let kernel = Self::ALL
            .into_iter()
            .chain([Self::AmxEmulated])
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| KernelError::Unknown(name.to_owned()))?;
        if kernel.is_available() {
            Ok(kernel)
        } else {
            let available = Self::available().into_iter().map(Self::name).collect();
            Err(KernelError::Absent { wanted: kernel.name(), available })
        }
    }
}

/// The CPU as a device: an instruction set and a steady pool of threads; and the GPUs, if any, that models are to be loaded on.
pub struct Cpu {
    kernel: Kernel,
    pool: Arc<Pool>,
    /// Asked for; see [`Cpu::rounds`].
    rounding: bool,
    account: Option<Arc<Account>>,
    #[cfg(feature = "cuda")]
    gpus: Vec<Arc<crate::cuda::Device>>,
}

impl Cpu {
    /// A device with so many threads (the calling thread is one of them).
    ///
    /// # Panics
    /// If the processor can't run the kernel: ask [`Kernel::is_available`] first.
    pub fn new(kernel: Kernel, threads: usize) -> Self {
        assert!(kernel.is_available(), "kernel {} is not available here", kernel.name());
        Self {
            kernel,
            pool: Arc::new(Pool::new(threads.max(1))),
            rounding: false,
            account: None,
            #[cfg(feature = "cuda")]
            gpus: Vec::new(),
        }
    }

    /// The same with a GPU beside it, and beside those that it has: models that are loaded with this handle lie and compute on
    /// each of them.
    #[cfg(feature = "cuda")]
    pub fn with_gpu(mut self, gpu: Arc<crate::cuda::Device>) -> Self {
        self.gpus.push(gpu);
        self
    }

    /// The first GPU that models are loaded on.
    #[cfg(feature = "cuda")]
    pub fn gpu(&self) -> Option<&Arc<crate::cuda::Device>> {
        self.gpus.first()
    }

    /// All of them.
    #[cfg(feature = "cuda")]
    pub fn gpus(&self) -> &[Arc<crate::cuda::Device>] {
        &self.gpus
    }

    /// The same, which may round numbers to 16 bits where that is faster; see [`Cpu::rounds`].
    pub fn with_rounding(self) -> Self {
        Self { rounding: true, ..self }
    }

    /// Whether numbers other than weights may be rounded to 16 bits, as in a KV cache: because it was asked for, or because the
    /// kernel's products round them anyway.
    pub fn rounds(&self) -> bool {
        self.rounding || self.kernel.rounds_activations()
    }

    /// The same, keeping account of the time that operations take.
    pub fn with_account(self) -> Self {
        Self { account: Some(Arc::default()), ..self }
    }

    /// Where the time went, if account is kept.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// Times an operation, if account is kept, until what is returned is dropped.
    #[inline]
    pub fn clock(&self, operation: Operation) -> Option<Clock<'_>> {
        self.account.as_ref()?.begin(operation)
    }

    /// The device that `TINYLORA_KERNEL` and `TINYLORA_THREADS` ask for: by default one thread a core, and the fastest
    /// instruction set whose products keep activations in f32, or, where `rounding` is allowed, the fastest of all, and
    /// [`Cpu::with_rounding`].
    pub fn from_env(rounding: bool) -> Result<Self, KernelError> {
        let kernel = match std::env::var("TINYLORA_KERNEL") {
            Ok(name) if !name.is_empty() => Kernel::by_name(&name)?,
            _ if rounding => Kernel::best(),
            _ => Kernel::best_exact(),
        };
        let threads = match std::env::var("TINYLORA_THREADS") {
            Ok(text) if !text.is_empty() => match text.parse() {
                Ok(n @ 1..=1024) => n,
                _ => return Err(KernelError::Threads(text)),
            },
            _ => std::thread::available_parallelism().map_or(1, usize::from),
        };
        Ok(Self { rounding, ..Self::new(kernel, threads) })
    }

    /// The same threads with a kernel that keeps activations in f32: for numerical work such as an SVD, whose results
    /// are then the same with every kernel.
    pub fn exact(&self) -> Self {
        let kernel = match self.kernel {
            Kernel::Avx512Bf16 | Kernel::Amx => Kernel::Avx512,
            Kernel::AmxEmulated => Kernel::Scalar,
            exact => exact,
        };
        Self {
            kernel,
            pool: Arc::clone(&self.pool),
            rounding: false,
            account: self.account.clone(),
            #[cfg(feature = "cuda")]
            gpus: self.gpus.clone(),
        }
    }

    /// The instruction set.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs `task(0) … task(tasks - 1)` on all threads and waits for them.
    pub fn parallel(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.run(tasks, &task);
    }
}

/// A piece of work that is compiled once for each instruction set.
pub(crate) trait Simd {
    type Output;
    /// The work. Must be `#[inline(always)]`, so that it is compiled with the caller's features.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs a piece of work with the lanes of `kernel`, which must be available.
#[inline]
pub(crate) fn dispatch<S: Simd>(kernel: Kernel, work: S) -> S::Output {
    // SAFETY: `Cpu::new` has checked that the processor has what the kernel needs.
    unsafe {
        match kernel {
            Kernel::Scalar => Scalar::<NoTiles>::apart(work),
            Kernel::AmxEmulated => Scalar::<EmulatedTiles>::apart(work),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => Avx2::apart(work),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => Avx512::<false>::apart(work),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => Avx512::<true>::apart(work),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx => Avx512::<true, crate::tiles::AmxTiles>::apart(work),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => crate::lanes::Neon::apart(work),
            #[allow(unreachable_patterns)] // which names are reachable depends on the architecture
            _ => unreachable!("kernel {} is not available here", kernel.name()),
        }
    }
}
