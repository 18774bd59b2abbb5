//! The device layer on the emulated driver, which the C++ compiler makes of `emulated/` and the kernels; skipped, with a
//! message, where there is no such compiler.

use super::driver::Driver;
use super::images::{Unit, architecture};
use super::*;
use crate::testing::numbers;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the emulated driver with the norm's kernels; None where that can't be done here.
fn emulated(folder: &Path) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
    let library = folder.join("driver.so");
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-DEMULATED", "-w"]);
    command.arg("-I").arg(here.join("emulated")).arg("-I").arg(here.join("kernels")).args(["-x", "c++"]);
    command.args([
        here.join("emulated/emulate.cpp"),
        here.join("emulated/driver.cpp"),
        here.join("kernels/norm.cu"),
    ]);
    match command.arg("-o").arg(&library).status() {
        Ok(status) => {
            assert!(status.success(), "the emulated driver compiles");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no g++ here ({error})");
            None
        }
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tinylora-cuda-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// Images that the emulated driver takes for machine code.
fn images(folder: &Path) -> Images {
    let images = Images { folder: folder.to_owned(), compile: false };
    if let Err(CudaError::Image { file, .. }) = images.read(&Unit { name: "norm", head: None }, "sm_80") {
        std::fs::write(file, b"emulated").expect("writable");
    }
    images
}

#[test]
fn without_a_driver_the_error_says_so() {
    let images = Images { folder: PathBuf::new(), compile: false };
    let nowhere = Path::new("no-such-folder/libcuda.so.1");
    let error = Device::open(0, Some(1 << 20), images, Some(nowhere)).err().expect("no driver");
    assert!(matches!(error, CudaError::NoDriver { .. }), "{error}");
    assert!(error.to_string().contains("use the cpu device"), "{error}");
}

#[test]
fn a_library_without_the_functions_is_an_old_driver() {
    if cfg!(target_os = "linux") {
        let error = Driver::load(Some(Path::new("libc.so.6"))).err().expect("libc is no driver");
        assert!(matches!(error, CudaError::OldDriver { .. }), "{error}");
    }
}

#[test]
fn a_kernel_runs_and_memory_keeps_to_the_budget() {
    let folder = folder("run");
    let Some(driver) = emulated(&folder) else { return };
    let device =
        Device::open(0, Some(10_000), images(&folder), Some(&driver)).expect("the emulated device opens");
    let (rows, width) = (3, 70);
    let (x, weight) = (numbers(1, rows * width), numbers(2, width));
    let mut expected = numbers(3, rows * width);
    let out = device.upload("out", &expected).expect("in the budget");
    for (row, out) in x.chunks(width).zip(expected.chunks_mut(width)) {
        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
        for ((out, &x), &w) in out.iter_mut().zip(row).zip(&weight) {
            *out = (f64::from(*out) + f64::from(x) * scale * f64::from(w)) as f32;
        }
    }
    let (x, weight) =
        (device.upload("x", &x).expect("fits"), device.upload("weight", &weight).expect("fits"));
    let launch = Launch { blocks: [rows as u32, 1, 1], threads: 256, shared: 0 };
    let width = Argument::Int(width as i32);
    let arguments = [x.argument(), weight.argument(), Argument::Float(1e-5), width, out.argument()];
    // SAFETY: these are the arguments of the kernel, with buffers of rows · width and width numbers.
    unsafe { device.launch("rms_norm_add", launch, &arguments) }.expect("it runs");
    device.synchronize().expect("nothing failed");
    let mut found = vec![0.0; expected.len()];
    out.read(&mut found).expect("readable");
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    // SAFETY: nothing is launched, as there is no such kernel.
    let error = unsafe { device.launch("rms_norm_mul", launch, &arguments) }.expect_err("no such kernel");
    assert!(matches!(error, CudaError::NoKernel { .. }), "{error}");

    let used = device.used();
    assert_eq!(used, (2 * 3 * 70 + 70) * 4);
    let error = device.buffer::<f32>("keys and values", 3000).err().expect("over the budget");
    assert!(error.to_string().contains("keys and values needs 12000 bytes"), "{error}");
    assert!(matches!(device.buffer::<u32>("all", usize::MAX), Err(CudaError::OutOfBudget { .. })));
    drop(x);
    assert_eq!(device.used(), used - 3 * 70 * 4);
    let no_image = Images { folder: folder.join("empty"), compile: false };
    let other = Device::open(0, Some(10_000), no_image, Some(&driver)).expect("opens");
    // SAFETY: nothing is launched, as there is no machine code.
    let error = unsafe { other.launch("rms_norm_add", launch, &arguments) }.expect_err("no machine code");
    assert!(matches!(error, CudaError::Image { .. }), "{error}");
    let error = Device::open(2, Some(0), images(&folder), Some(&driver)).err().expect("there are two");
    assert!(matches!(error, CudaError::NoSuchDevice { number: 2, count: 2 }), "{error}");
    std::fs::remove_dir_all(folder).expect("removable");
}

/// Many small buffers through a ring that is far smaller: what came there.
fn through_a_small_ring(device: &Device, careless: bool) -> bool {
    let mut ring = super::queue::Ring::of(64);
    ring.careless = careless;
    let mut before = std::mem::replace(&mut *device.inner().ring.lock().expect("no panic"), ring);
    let numbers: Vec<Vec<u32>> = (0..40).map(|i| (0..25 + i).map(|j| 1000 * i + j).collect()).collect();
    let buffers: Vec<_> =
        numbers.iter().map(|numbers| device.upload("numbers", numbers).expect("fits")).collect();
    let right =
        numbers.iter().zip(&buffers).all(|(numbers, buffer)| buffer.to_vec().expect("readable") == *numbers);
    std::mem::swap(&mut *device.inner().ring.lock().expect("no panic"), &mut before);
    before.free(device.inner().enter().expect("the device"));
    right
}

#[test]
fn nothing_is_waited_for_but_what_must_be_and_a_missing_wait_is_found() {
    let folder = folder("queue");
    let Some(driver) = emulated(&folder) else { return };
    let device = Device::open(0, None, images(&folder), Some(&driver)).expect("the emulated device opens");
    assert!(through_a_small_ring(&device, false), "numbers go through the ring as they are");
    assert!(!through_a_small_ring(&device, true), "a ring that doesn't wait must be found out");

    // Results are those of the place in the queue where they were fetched.
    let buffer = device.upload("numbers", &[1u32; 100]).expect("fits");
    let first = buffer.fetch().expect("queued");
    buffer.write(&[2; 100]).expect("queued");
    drop(buffer.fetch().expect("queued"));
    buffer.write(&[3; 100]).expect("queued");
    let last = buffer.fetch().expect("queued");
    assert_eq!(first.wait().expect("there"), [1; 100]);
    assert_eq!(last.wait().expect("there"), [3; 100]);
    drop((buffer, device));
    std::fs::remove_dir_all(folder).expect("removable");
}

#[test]
fn a_graph_keeps_its_arguments_and_its_memory() {
    let folder = folder("graph");
    let Some(driver) = emulated(&folder) else { return };
    let device = Device::open(0, None, images(&folder), Some(&driver)).expect("the emulated device opens");
    let width = 70;
    let weight = device.upload("weight", &vec![1f32; width]).expect("fits");
    let x = device.upload("x", &vec![1f32; width]).expect("fits");
    let out = device.zeroed::<f32>("out", width).expect("fits");
    let add = || -> Result<(), CudaError> {
        let launch = Launch { blocks: [1, 1, 1], threads: 256, shared: 0 };
        let between = device.buffer::<f32>("between", width)?;
        between.copy_from(&x)?;
        let (epsilon, width) = (Argument::Float(0.0), Argument::Int(width as i32));
        let arguments = [between.argument(), weight.argument(), epsilon, width, out.argument()];
        // SAFETY: these are the arguments of the kernel, with buffers of `width` numbers.
        unsafe { device.launch("rms_norm_add", launch, &arguments) }
    };
    add().expect("it runs");
    let graph = device.record(add).expect("recorded");
    let used = device.used();
    let mean = |out: &DeviceBuffer<f32>| out.to_vec().expect("readable").iter().sum::<f32>() / width as f32;
    assert_eq!(mean(&out), 1.0, "what is recorded does not run");
    graph.launch().expect("queued");
    x.write(&vec![-1.0; width]).expect("queued");
    (0..3).for_each(|_| graph.launch().expect("queued"));
    assert_eq!((mean(&out), device.graph_launches()), (-1.0, 4));
    // Memory that only the graph has is not given to others.
    let (x_there, out_there) = (x.clone(), out.clone());
    drop((x, weight, out));
    assert_eq!(device.used(), used);
    x_there.write(&vec![2.0; width]).expect("queued");
    graph.launch().expect("queued");
    assert_eq!(mean(&out_there), 0.0);
    drop((x_there, out_there));
    assert_eq!(device.used(), used);
    drop(graph);
    assert_eq!(device.used(), 0);
    // A recording that fails leaves nothing behind.
    let failed = device.record(|| Err(CudaError::NoDevice)).err().expect("it failed");
    assert!(matches!(failed, CudaError::NoDevice), "{failed}");
    device.upload("after", &[1u32]).expect("nothing is recorded any more");
    drop(device);
    std::fs::remove_dir_all(folder).expect("removable");
}

#[test]
fn every_kernel_with_a_ceiling_is_in_a_file() {
    let ceilings = include_str!("../../../../xtask/kernels/ceilings.json");
    let names: Vec<&str> = ceilings.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 60, "{}", names.len());
    for name in names {
        assert!(Unit::of(name).is_some(), "{name}");
    }
    assert!(Unit::of("attention_forward_48").is_none() && Unit::of("nothing").is_none());
}

/// With `TINYLORA_CUDA_IMAGES` naming the folder that `cargo xtask kernels` has just filled.
#[test]
fn machine_code_is_found_by_the_names_that_the_compiler_gave() {
    let Some(folder) = std::env::var_os("TINYLORA_CUDA_IMAGES") else {
        eprintln!("skipped: TINYLORA_CUDA_IMAGES names no folder of machine code");
        return;
    };
    let images = Images { folder: folder.into(), compile: false };
    for architecture in ["sm_80", "sm_89", "sm_90a", "sm_120"] {
        for kernel in ["product_few_add", "head_pick", "attention_forward_128", "thin_join"] {
            let unit = Unit::of(kernel).expect("a kernel");
            let image = images.read(&unit, architecture).expect("machine code of that name");
            assert!(image.starts_with(b"\x7fELF"), "{kernel} for {architecture}");
        }
    }
}

#[test]
fn gpus_and_head_sizes_that_are_served() {
    assert_eq!(architecture(9, 0), Some("sm_90a"));
    assert_eq!((architecture(8, 6), architecture(7, 5), architecture(10, 0)), (Some("sm_80"), None, None));
    assert_eq!((padded_head(24), padded_head(128), padded_head(257)), (Some(32), Some(128), None));
}

/// With NVRTC at hand (`TINYLORA_NVRTC` or where it is looked for): what isn't compiled yet is, and kept.
#[test]
fn machine_code_is_compiled_once_and_kept() {
    let folder = folder("compile");
    let images = Images { folder: folder.clone(), compile: true };
    let unit = Unit::of("embed").expect("a kernel");
    match images.read(&unit, "sm_80") {
        Err(error @ CudaError::NoCompiler { .. }) => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
        Ok(image) => {
            assert!(image.starts_with(b"\x7fELF"), "machine code");
            let kept = Images { folder: folder.clone(), compile: false }.read(&unit, "sm_80").expect("kept");
            assert_eq!(image, kept);
            assert!(Images::file_names("sm_80").iter().any(|name| folder.join(name).is_file()));
        }
    }
    std::fs::remove_dir_all(folder).expect("removable");
}

#[test]
fn without_a_compiler_the_error_says_what_to_install() {
    let places = super::nvrtc::places();
    assert!(!places.is_empty());
    let error = CudaError::NoCompiler { searched: "a, b".into(), reasons: String::new() }.to_string();
    assert!(error.contains("pip install") && error.contains("a, b"), "{error}");
}
