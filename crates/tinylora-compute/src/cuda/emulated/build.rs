//! For tests, wherever they stand: kernels and the emulated driver → a library in the place of NVIDIA's driver, with files in
//! the place of machine code. Made once, in the folder for temporary files, under a hash of what it is made of.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Head sizes that it has attention kernels for.
const HEADS: [usize; 3] = [16, 32, 64];

/// The emulated driver's library and the folder of machine code; None, with a message, without a C++ compiler. `cuda` is the
/// folder `src/cuda` of tinylora-compute.
pub fn emulated_driver(cuda: &Path) -> Option<(PathBuf, PathBuf)> {
    // Tests of one program run side by side.
    static ONE: Mutex<()> = Mutex::new(());
    let _held = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let listed = |folder: &str| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(cuda.join(folder))
            .expect("sources")
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.extension().is_some_and(|end| end != "rs"))
            .collect();
        paths.sort();
        paths
    };
    let mut hasher = DefaultHasher::new();
    include_str!("build.rs").hash(&mut hasher);
    for path in listed("kernels").into_iter().chain(listed("emulated")) {
        std::fs::read(path).expect("readable").hash(&mut hasher);
    }
    HEADS.hash(&mut hasher);
    let folder = std::env::temp_dir().join(format!("tinylora-emulated-{:016x}", hasher.finish()));
    let made = || (folder.join("driver.so"), folder.join("kernels"));
    if folder.is_dir() {
        return Some(made());
    }
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    std::fs::create_dir_all(part.join("kernels")).expect("a temporary folder");
    for architecture in ["sm_80", "sm_90a"] {
        for name in tinylora_compute::cuda::Images::file_names(architecture) {
            std::fs::write(part.join("kernels").join(name), b"emulated").expect("writable");
        }
    }
    let mut objects = Vec::new();
    for source in listed("kernels").into_iter().chain(listed("emulated")) {
        let name = source.file_name().expect("a file").to_string_lossy().into_owned();
        let heads: Vec<Option<usize>> = match name.as_str() {
            "attention.cu" => HEADS.into_iter().map(Some).collect(),
            _ if name.ends_with(".cu") || name.ends_with(".cpp") => vec![None],
            _ => continue,
        };
        for head in heads {
            let object = part.join(format!("{name}-{}.o", head.unwrap_or(0)));
            let mut command = Command::new("g++");
            // The device is what takes the time; the kernels are many and large.
            let level = if name.ends_with(".cpp") { "-O2" } else { "-O1" };
            command.args(["-std=c++17", level, "-fPIC", "-ffp-contract=off", "-DEMULATED", "-w"]);
            // What each thread has is looked at everywhere; this way it needs no call.
            command.args(cfg!(target_arch = "x86_64").then_some("-mtls-dialect=gnu2"));
            command.args(head.map(|head| format!("-DHEAD={head}")));
            command.arg("-I").arg(cuda.join("emulated")).arg("-I").arg(cuda.join("kernels"));
            command.args(["-x", "c++", "-c"]).arg(&source).arg("-o").arg(&object);
            match command.status() {
                Ok(status) => assert!(status.success(), "{name} compiles"),
                Err(error) => {
                    eprintln!("skipped: no g++ here ({error})");
                    std::fs::remove_dir_all(part).expect("removable");
                    return None;
                }
            }
            objects.push(object);
        }
    }
    let mut link = Command::new("g++");
    link.arg("-shared").args(objects).arg("-o").arg(part.join("driver.so"));
    assert!(link.status().expect("g++").success(), "the emulated driver links");
    // Another test may have been faster.
    if std::fs::rename(&part, &folder).is_err() {
        std::fs::remove_dir_all(part).expect("removable");
    }
    Some(made())
}
