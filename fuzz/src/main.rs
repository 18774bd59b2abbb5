//! One of the engine's fuzz targets under libFuzzer, which owns `main` and the command line. The target's name enters in
//! `TINYLORA_FUZZ_TARGET`; good files and a dictionary leave into the folder `TINYLORA_FUZZ_SEEDS` before the first execution.
//! A panic of the parser ends the process, and libFuzzer keeps the input.

#![no_main]

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use libfuzzer_sys::fuzz_target;
use tinylora::fuzz::{NAMES, Target, target, words};

thread_local! {
    static TARGET: OnceCell<Target> = const { OnceCell::new() };
}

/// What the last panic said, and where.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn named() -> Target {
    let name = std::env::var("TINYLORA_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        eprintln!("TINYLORA_FUZZ_TARGET is {name:?}; there are {}", NAMES.join(", "));
        std::process::exit(2)
    })
}

/// Writes the seeds, and the dictionary in libFuzzer's form.
fn prepare() {
    // libFuzzer's crate ends the process at any panic; here those that a parser catches by design (of the libraries for
    // parquet and tokenizers) are no failures.
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = info.to_string();
        }
    }));
    let Some(folder) = std::env::var_os("TINYLORA_FUZZ_SEEDS") else { return };
    let (folder, target) = (Path::new(&folder), named());
    let escaped = |word: &String| {
        let bytes: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("\"{bytes}\"\n")
    };
    let dictionary: String = words(&target).iter().map(escaped).collect();
    let written = std::fs::create_dir_all(folder.join("seeds")).and_then(|()| {
        for (index, seed) in target.seeds.iter().enumerate() {
            std::fs::write(folder.join("seeds").join(index.to_string()), seed)?;
        }
        std::fs::write(folder.join("dictionary"), dictionary)
    });
    if let Err(error) = written {
        eprintln!("{}: cannot write the seeds: {error}", folder.display());
        std::process::exit(2);
    }
}

fuzz_target!(init: prepare(), |data: &[u8]| {
    TARGET.with(|cell| {
        let target = cell.get_or_init(named);
        if catch_unwind(AssertUnwindSafe(|| (target.accepts)(data.to_vec()))).is_err() {
            let said = LAST_PANIC.lock().map(|said| said.clone()).unwrap_or_default();
            eprintln!("{said}");
            std::process::abort();
        }
    });
});
