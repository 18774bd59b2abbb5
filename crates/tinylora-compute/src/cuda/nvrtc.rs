//! NVIDIA's compiler for kernels, found at run time: the text of a file of kernels enters, machine code leaves. No GPU is
//! needed for it, and no toolkit: the library alone does.

use super::error::CudaError;
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// The library's names, the version that the drivers asked for were made with first.
const NAMES: [&str; 2] = if cfg!(windows) {
    ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    ["libnvrtc.so.13", "libnvrtc.so.12"]
};

type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;

/// The library's functions.
pub(super) struct Nvrtc {
    create: Create,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: Size,
    log: Bytes,
    code_size: Size,
    code: Bytes,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    /// The functions live as long as these.
    _libraries: Vec<Library>,
}

/// Where the library may lie, in the order in which it is looked for; a bare name is for the system's loader.
pub(super) fn places() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("TINYLORA_NVRTC") {
        return vec![path];
    }
    let mut folders = Vec::new();
    for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable) {
        folders.extend([root.join("lib64"), root.join("lib"), root.join("bin")]);
    }
    folders.push("/usr/local/cuda/lib64".into());
    // Where pip puts the package nvidia-cuda-nvrtc.
    for root in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable) {
        for python in listed(&root.join("lib")) {
            folders.extend(listed(&python.join("site-packages/nvidia")).into_iter().map(|p| p.join("lib")));
        }
        folders.extend(
            listed(&root.join("Lib/site-packages/nvidia")).into_iter().map(|package| package.join("bin")),
        );
    }
    let named = NAMES.iter().map(PathBuf::from);
    named.chain(NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)))).collect()
}

/// What lies in a folder, in the order of names; nothing if there is none.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

impl Nvrtc {
    /// The first library that loads of [`places`].
    pub fn find() -> Result<Self, CudaError> {
        let places = places();
        let mut reasons = Vec::new();
        for place in &places {
            match Self::load(place) {
                Ok(found) => return Ok(found),
                Err(reason) if place.is_file() => reasons.push(format!("{}: {reason}", place.display())),
                Err(_) => {}
            }
        }
        let searched: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Err(CudaError::NoCompiler { searched: searched.join(", "), reasons: reasons.join("; ") })
    }

    fn load(path: &Path) -> Result<Self, String> {
        let mut libraries = Vec::new();
        // It looks for its other half by name alone, which fails where it lies beside it outside the system's folders.
        let beside = path.parent().map(listed).unwrap_or_default();
        for other in beside.iter().filter(|p| p.to_string_lossy().contains("nvrtc-builtins")) {
            // SAFETY: a part of the compiler; what it does on loading touches nothing of ours.
            libraries.extend(unsafe { Library::new(other) });
        }
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        macro_rules! function {
            ($symbol:literal) => {
                // SAFETY: the field's type is that of the function in the library's interface (nvrtc.h, version 13.0).
                match unsafe { library.get(concat!($symbol, "\0").as_bytes()) } {
                    Ok(function) => *function,
                    Err(_) => return Err(concat!("it has no ", $symbol).to_owned()),
                }
            };
        }
        Ok(Self {
            create: function!("nvrtcCreateProgram"),
            compile: function!("nvrtcCompileProgram"),
            log_size: function!("nvrtcGetProgramLogSize"),
            log: function!("nvrtcGetProgramLog"),
            code_size: function!("nvrtcGetCUBINSize"),
            code: function!("nvrtcGetCUBIN"),
            destroy: function!("nvrtcDestroyProgram"),
            _libraries: {
                libraries.push(library);
                libraries
            },
        })
    }

    /// Machine code of a file of kernels; `headers` are (name, text).
    pub fn compile(
        &self,
        name: &str,
        text: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Vec<u8>, CudaError> {
        let c = |text: &str| CString::new(text).expect("our own texts have no zeros");
        let (name_c, text_c) = (c(name), c(text));
        let texts: Vec<CString> = headers.iter().map(|(_, text)| c(text)).collect();
        let names: Vec<CString> = headers.iter().map(|(name, _)| c(name)).collect();
        let options: Vec<CString> = options.iter().map(|option| c(option)).collect();
        let pointers = |all: &[CString]| -> Vec<*const c_char> { all.iter().map(|s| s.as_ptr()).collect() };
        let (texts_p, names_p, options_p) = (pointers(&texts), pointers(&names), pointers(&options));
        let failed = |log: String| CudaError::Compiler { file: name.to_owned(), log };
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all strings end in 0 and live until the program is destroyed; the lists have the lengths given.
        unsafe {
            let count = headers.len() as c_int;
            let (text, name) = (text_c.as_ptr(), name_c.as_ptr());
            if (self.create)(&mut program, text, name, count, texts_p.as_ptr(), names_p.as_ptr()) != 0 {
                return Err(failed("it takes no program".to_owned()));
            }
            let status = (self.compile)(program, options_p.len() as c_int, options_p.as_ptr());
            let log = self.bytes(program, self.log_size, self.log);
            let code = self.bytes(program, self.code_size, self.code);
            (self.destroy)(&mut program);
            if status != 0 || code.is_empty() {
                let log: Vec<u8> = log.into_iter().filter(|&byte| byte != 0).collect();
                return Err(failed(String::from_utf8_lossy(&log).into_owned()));
            }
            Ok(code)
        }
    }

    /// # Safety
    /// The program is one that is not destroyed; the functions are a pair of size and content.
    unsafe fn bytes(&self, program: Program, size: Size, content: Bytes) -> Vec<u8> {
        let mut len = 0;
        // SAFETY: the size is written, and the content has so many bytes.
        unsafe {
            if size(program, &mut len) != 0 {
                return Vec::new();
            }
            let mut bytes = vec![0u8; len];
            if content(program, bytes.as_mut_ptr().cast()) != 0 {
                return Vec::new();
            }
            bytes
        }
    }
}
