//! Which file of kernels has a kernel, and where its machine code lies: a kernel's name enters, bytes leave. Files are named
//! by a hash of all that the code depends on, so that what was made from other sources is never loaded; what isn't there is
//! compiled, once, if it may be.

use super::error::CudaError;
use super::nvrtc::Nvrtc;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Head sizes that the attention kernels are compiled for; others are padded to the next.
pub const HEAD_SIZES: [usize; 7] = [16, 32, 64, 80, 96, 128, 256];

/// The head size whose kernels serve heads of `size`; None where it is larger than all.
pub fn padded_head(size: usize) -> Option<usize> {
    HEAD_SIZES.into_iter().find(|&padded| size <= padded)
}

/// The kind of GPU that has `wgmma`.
pub(super) const HOPPER: &str = "sm_90a";

/// What the compiler is told besides the kind of GPU.
const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "--ptxas-options=-v"];

/// (name, text) of the headers in the order of their names.
const HEADERS: [(&str, &str); 5] = [
    ("hopper.cuh", include_str!("kernels/hopper.cuh")),
    ("philox.cuh", include_str!("kernels/philox.cuh")),
    ("prelude.cuh", include_str!("kernels/prelude.cuh")),
    ("product.cuh", include_str!("kernels/product.cuh")),
    ("tile.cuh", include_str!("kernels/tile.cuh")),
];

macro_rules! units {
    ($($name:literal),*) => {
        /// (name, text) of the files of kernels.
        const UNITS: &[(&str, &str)] = &[$(($name, include_str!(concat!("kernels/", $name, ".cu"))),)*];
    };
}

units!(
    "activation",
    "attention",
    "head",
    "heads",
    "norm",
    "optimizer",
    "outer",
    "product",
    "rows",
    "side",
    "slopes",
    "thin",
    "wgmma"
);

/// Machine code in a folder, as `cargo xtask kernels` leaves it.
#[derive(Debug, Clone)]
pub struct Images {
    /// The folder.
    pub folder: PathBuf,
    /// Whether what isn't there is compiled by NVRTC and put there.
    pub compile: bool,
}

/// A file of kernels, for one head size where it depends on that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub name: &'static str,
    pub head: Option<usize>,
}

impl Unit {
    /// The unit that has a kernel.
    pub fn of(kernel: &str) -> Option<Self> {
        let (base, head) = match kernel.rsplit_once('_') {
            Some((base, digits)) if kernel.starts_with("attention_") => (base, Some(digits.parse().ok()?)),
            _ => (kernel, None),
        };
        if head.is_some_and(|head| !HEAD_SIZES.contains(&head)) {
            return None;
        }
        let forms = [format!("KERNEL({base},"), format!("KERNEL(NAMED({base}),"), format!("PRODUCT({base},")];
        let has = |text: &str| forms.iter().any(|form| text.contains(form));
        UNITS.iter().find(|(_, text)| has(text)).map(|&(name, _)| Self { name, head })
    }

    /// All of them.
    fn all() -> impl Iterator<Item = Self> {
        UNITS.iter().flat_map(|&(name, _)| {
            let sizes: Vec<Option<usize>> = match name {
                "attention" => HEAD_SIZES.into_iter().map(Some).collect(),
                _ => vec![None],
            };
            sizes.into_iter().map(move |head| Self { name, head })
        })
    }

    /// Whether a kind of GPU has its instructions.
    fn is_for(&self, architecture: &str) -> bool {
        self.name != "wgmma" || architecture == HOPPER
    }

    fn text(&self) -> &'static str {
        UNITS.iter().find(|(name, _)| *name == self.name).expect("a unit's name is in the list").1
    }

    fn compile(&self, architecture: &str) -> Result<Vec<u8>, CudaError> {
        let mut options = vec![format!("--gpu-architecture={architecture}")];
        options.extend(OPTIONS.map(str::to_owned));
        options.extend(self.head.map(|head| format!("-DHEAD={head}")));
        Nvrtc::find()?.compile(&format!("{}.cu", self.name), self.text(), &HEADERS, &options)
    }

    fn file_name(&self, architecture: &str) -> String {
        let mut hash = Sha256::new();
        for part in std::iter::once(self.text()).chain(HEADERS.map(|(_, text)| text)) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(architecture.as_bytes());
        hash.update([0]);
        // As Python writes a list.
        hash.update(format!("['{}']", OPTIONS.join("', '")).as_bytes());
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let head = self.head.map_or(String::new(), |head| format!("-{head}"));
        format!("{}{head}-{architecture}-{digest}.cubin", self.name)
    }
}

impl Images {
    /// Machine code of a unit.
    pub(super) fn read(&self, unit: &Unit, architecture: &'static str) -> Result<Vec<u8>, CudaError> {
        let file = self.folder.join(unit.file_name(architecture));
        match std::fs::read(&file) {
            Ok(image) => Ok(image),
            Err(_) if self.compile => {
                let image = unit.compile(architecture)?;
                // Another process may do the same: whole under a name of its own first. If it can't be kept, it is
                // compiled again next time.
                let part = file.with_extension(format!("part-{}", std::process::id()));
                let kept = std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&part, &image));
                if kept.is_err() || std::fs::rename(&part, &file).is_err() {
                    let _ = std::fs::remove_file(&part);
                }
                Ok(image)
            }
            Err(source) => Err(CudaError::Image { unit: unit.name.to_owned(), architecture, file, source }),
        }
    }

    /// The names of all files of machine code for a kind of GPU, as in [`super::Device::architecture`].
    pub fn file_names(architecture: &str) -> Vec<String> {
        Unit::all()
            .filter(|unit| unit.is_for(architecture))
            .map(|unit| unit.file_name(architecture))
            .collect()
    }
}

/// The kind of machine code for a compute capability; None where none is made.
pub(super) fn architecture(major: i32, minor: i32) -> Option<&'static str> {
    match (major, minor) {
        (8, 9) => Some("sm_89"),
        (8, _) => Some("sm_80"),
        (9, _) => Some(HOPPER),
        (12, _) => Some("sm_120"),
        _ => None,
    }
}
