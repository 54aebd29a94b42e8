//! What can go wrong with a store: what, why, and what to do next.

use std::path::PathBuf;

/// Why the store could not do what it was asked. A node ends itself on any of them (rule 10 of src/ring/mod.rs).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the files in it cannot be used at all.
    #[error(
        "the store in {} cannot be opened: {why}. Check that this user may write there and that the disk has room \
         (ls -ld {0}; df -h {0}), then start the node again",
        directory.display()
    )]
    Open { directory: PathBuf, why: String },

    /// Another process has it open.
    #[error(
        "the store in {} is in use by another process. See what runs with `chaleyd state`, end it with `chaleyd down`",
        directory.display()
    )]
    Locked { directory: PathBuf },

    /// Another version of chaley wrote it.
    #[error(
        "the store in {} has layout {found}, this chaleyd reads layouts up to {expected}. Run the chaleyd that wrote it, or \
         move the directory away and start the node: it then comes back as a new one and copies the history from the \
         others, which must be there. So do that node by node, the next one once this one is a member, and never on all \
         nodes at once: that would leave nobody to copy from",
        directory.display()
    )]
    Version {
        directory: PathBuf,
        found: String,
        expected: u32,
    },

    /// The files cannot be what was written.
    #[error(
        "the store in {} is damaged ({what}). Move the directory away (mv {0} {0}.damaged) and start the node: it then \
         comes back as a new one and copies the history from the ring",
        directory.display()
    )]
    Corrupt { directory: PathBuf, what: String },

    /// A read failed.
    #[error(
        "reading the store in {} failed: {why}. Look for disk errors (dmesg), then start the node again",
        directory.display()
    )]
    Read { directory: PathBuf, why: String },

    /// A write failed; this and every later write is refused. Whether the failed batch is there shows when the store is
    /// opened anew: whole or not at all.
    #[error(
        "writing to the store in {} failed: {why}. Make room on the disk or mend it (df -h {0}; dmesg), then start the \
         node again",
        directory.display()
    )]
    Write { directory: PathBuf, why: String },

    /// The caller's mistake: an entry that is not the next one, a record of an entry that is not there. Nothing was
    /// written, and the store goes on.
    #[error(
        "a write to the store in {} does not fit what is there: {what}. Nothing was written. This is a \
         defect of chaleyd: report it with the output of `chaleyd logs`",
        directory.display()
    )]
    Misfit { directory: PathBuf, what: String },
}

impl StoreError {
    /// The exit code (sysexits) of a node that ends because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            // To start again would find the same.
            StoreError::Version { .. } | StoreError::Locked { .. } | StoreError::Corrupt { .. } => 78,
            _ => 1,
        }
    }
}
