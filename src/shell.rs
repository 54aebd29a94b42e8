//! Completions and manual pages, both from the one tree that also reads the command line: what it accepts is what they tell.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, ValueEnum};

/// The shells for which there are completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script that teaches `shell` the commands and options of the program `name`. Hidden commands, which `clap_complete`
/// would tell of, are left out.
pub fn completions(name: &'static str, command: &Command, shell: Shell) -> Vec<u8> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let shown = command.get_subcommands().filter(|below| !below.is_hide_set());
    let mut public = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(shown.cloned());
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut public, name, &mut script);
    script
}

/// Writes a page for the program and one for each of its commands into `directory`, which is made if need be. Returns
/// the program's own page.
pub fn manual(command: Command, directory: &Path) -> io::Result<PathBuf> {
    let page = directory.join(format!("{}.1", command.get_name()));
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command, directory)?;
    Ok(page)
}
