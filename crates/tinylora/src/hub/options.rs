//! The environment enters, a plain struct of settings leaves; nobody else in this module reads it.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The Hub that is asked unless `HF_ENDPOINT` says otherwise.
pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where things are kept and how they are fetched.
#[derive(Clone)]
pub struct HubOptions {
    /// tinylora's own cache: files from wheels, factors, hashes (`TINYLORA_CACHE`).
    pub cache: PathBuf,
    /// The cache that is shared with Python's `huggingface_hub` (`HF_HUB_CACHE`, else `HF_HOME/hub`).
    pub hub_cache: PathBuf,
    /// The Hub's address, without a slash at the end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The access token for gated and private repositories (`HF_TOKEN`, else what `hf auth login` stored).
    pub token: Option<String>,
    /// Ask no Hub; only what is cached exists (`HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`).
    pub offline: bool,
    /// What `~/` stands for (`HOME`).
    pub home: Option<PathBuf>,
    /// Where pip and Python are looked for (`PATH`).
    pub path: Option<OsString>,
    /// A PEM file with the certificates to trust instead of the built-in ones, for networks with an
    /// inspecting proxy (`SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`).
    pub ca_bundle: Option<PathBuf>,
    /// The wait before the first new attempt of a cut transfer; it doubles at each further one.
    pub retry_wait: Duration,
}

impl HubOptions {
    /// Reads the environment of this process, once.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Takes the settings from `lookup`, which gives the value of an environment variable.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let home = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &str| set(name).map(|value| expand_home(&PathBuf::from(value), home.as_deref()));
        // Without a home the system's folder for temporary files is the only place known to be writable.
        let caches = folder("XDG_CACHE_HOME")
            .or_else(|| home.as_ref().map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        let hf_home = folder("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = text("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        Self {
            cache: folder("TINYLORA_CACHE").unwrap_or_else(|| caches.join("tinylora")),
            hub_cache: folder("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            endpoint: text("HF_ENDPOINT")
                .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: text("HF_HUB_OFFLINE")
                .or_else(|| text("TRANSFORMERS_OFFLINE"))
                .is_some_and(|value| is_true(&value)),
            ca_bundle: folder("SSL_CERT_FILE").or_else(|| folder("REQUESTS_CA_BUNDLE")),
            path: set("PATH"),
            home,
            retry_wait: Duration::from_secs(1),
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token stays out of logs.
        formatter
            .debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("hub_cache", &self.hub_cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// The folder in which tinylora keeps what it can make or fetch again.
pub fn cache_dir(options: &HubOptions) -> PathBuf {
    options.cache.clone()
}

/// Replaces a leading `~/`, which no shell expands in a recipe.
pub(super) fn expand_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_lookup(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn defaults_stand_under_the_home() {
        let options = from(&[("HOME", "/homes/ada")]);
        assert_eq!(options.cache, Path::new("/homes/ada/.cache/tinylora"));
        assert_eq!(options.hub_cache, Path::new("/homes/ada/.cache/huggingface/hub"));
        assert_eq!(options.endpoint, DEFAULT_ENDPOINT);
        assert!(!options.offline && options.token.is_none());
    }

    #[test]
    fn each_variable_counts() {
        let options = from(&[
            ("HOME", "/homes/ada"),
            ("XDG_CACHE_HOME", "/caches"),
            ("HF_HOME", "~/hf"),
            ("HF_ENDPOINT", "http://mirror.example/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "YES"),
        ]);
        assert_eq!(options.cache, Path::new("/caches/tinylora"));
        assert_eq!(options.hub_cache, Path::new("/homes/ada/hf/hub"));
        assert_eq!(options.endpoint, "http://mirror.example");
        assert_eq!(options.token.as_deref(), Some("hf_secret"));
        assert!(options.offline);
        assert!(!format!("{options:?}").contains("secret"));
        let other = from(&[("TINYLORA_CACHE", "/t"), ("HF_HUB_CACHE", "/h"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((other.cache.as_path(), other.hub_cache.as_path()), (Path::new("/t"), Path::new("/h")));
        assert!(!other.offline);
        assert!(from(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!from(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn a_stored_token_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::write(folder.path().join("token"), "hf_stored\n").expect("write");
        let options = from(&[("HF_HOME", folder.path().to_str().expect("text"))]);
        assert_eq!(options.token.as_deref(), Some("hf_stored"));
    }
}
