//! `completions`: prints the scripts by which shells complete command lines. The scripts run this
//! tool for the [`candidates`].

pub(crate) mod candidates;

use std::io;

use clap::{Args, ValueEnum};
use clap_complete::env::{EnvCompleter as _, Fish, Zsh};

use crate::cli::completion::candidates::VARIABLE;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::terminal::output::print;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

/// The shells for which completions are installed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

const NAME: &str = "vmlockctl";

/// Bash also splits words at colons and equals signs, which are parts of words here, and expects
/// candidates without the text before the last of these characters.
const BASH: &str = r#"_vmlockctl() {
    local line=${COMP_LINE:0:COMP_POINT} current head before
    local -a words
    IFS=$' \t\n' read -a words <<< "$line"
    [[ $line == *[[:space:]] && $line != *\\[[:space:]] ]] && words+=("")
    current=${words[${#words[@]}-1]}
    COMPREPLY=()
    IFS=$'\013' read -r -d '' -a COMPREPLY < <(
        _CLAP_IFS=$'\013' _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) VARIABLE=bash \
            vmlockctl -- "${words[@]}" 2>/dev/null
    )
    [[ ${#COMPREPLY[@]} -eq 0 ]] && return
    before=$current
    while [[ $before == *[:=]* ]]; do
        head=${before%[:=]*}
        if [[ $COMP_WORDBREAKS == *"${before:${#head}:1}"* ]]; then
            COMPREPLY=("${COMPREPLY[@]#"${current:0:${#head}+1}"}")
            break
        fi
        before=$head
    done
    case ${COMPREPLY[0]} in
        -*) ;;
        *) compopt -o filenames 2>/dev/null ;;
    esac
    case ${COMPREPLY[0]} in
        */ | *= | *:) compopt -o nospace 2>/dev/null ;;
    esac
}
complete -o bashdefault -o default -o nosort -F _vmlockctl vmlockctl 2>/dev/null ||
    complete -o bashdefault -o default -F _vmlockctl vmlockctl
"#;

/// An installed script is the body of the function `_vmlockctl`; its first call defines the
/// completer.
const ZSH_END: &str = r#"
[ "$funcstack[1]" = "_vmlockctl" ] && _clap_dynamic_completer_vmlockctl "$@"
"#;

/// Prints the script.
pub(crate) fn perform(arguments: &Arguments) -> Result<Exit, Error> {
    let failed = |error: io::Error| Error::system("generating a completion script", error);
    let mut script = Vec::new();
    match arguments.shell {
        Shell::Bash => script.extend_from_slice(BASH.replace("VARIABLE", VARIABLE).as_bytes()),
        Shell::Zsh => {
            Zsh.write_registration(VARIABLE, NAME, NAME, NAME, &mut script).map_err(failed)?;
            script.extend_from_slice(ZSH_END.as_bytes());
        }
        Shell::Fish => {
            Fish.write_registration(VARIABLE, NAME, NAME, NAME, &mut script).map_err(failed)?;
        }
    }
    // Shell scripts are UTF-8.
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::SUCCESS)
}
