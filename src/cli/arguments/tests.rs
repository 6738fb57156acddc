//! Tests of the command line.

use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    super::parse(&words).map(|parsed| parsed.1)
}

#[test]
fn the_definition_is_valid() {
    Arguments::command().debug_assert();
}

#[test]
fn valid_command_lines_are_parsed() {
    for line in [
        "vmlockctl run --disk a.img -- qemu --json --disk b",
        "vmlockctl run --name n --disk a:shared --disk b:exclusive -- true",
        "vmlockctl --system --json list",
        "vmlockctl list --json --session",
        "vmlockctl run --wait --disk a -- true",
        "vmlockctl run --disk a --wait=2min -- true",
        "vmlockctl lock --wait a.img",
        "vmlockctl waiting --json",
        "vmlockctl waiting --watch",
        "vmlockctl -q owners --watch --json",
        "vmlockctl list --watch --quiet web1",
        "vmlockctl show 4dea",
        "vmlockctl release --force 3",
        "vmlockctl release ./a.img",
        "vmlockctl release web1",
        "vmlockctl list --owner web1 --user root ./a.img 16",
        "vmlockctl who a b",
        "vmlockctl completions fish",
        "vmlockctl reload",
        "vmlockctl status --json",
        "vmlockctl suspend --force web1",
        "vmlockctl resume web1 --wait=5min",
        "vmlockctl reexec --json --runtime-dir /run/other",
        "vmlockctl doctor --json",
        "vmlockctl doctor /srv/locks",
        "vmlockctl run --lease /srv/leases/a:shared -- true",
        "vmlockctl lock lease:/srv/leases/a",
        "vmlockctl lockspace list --json",
        "vmlockctl lockspace create-lease /srv/leases/a",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn invalid_command_lines_are_refused() {
    for line in [
        "vmlockctl",
        "vmlockctl frobnicate",
        "vmlockctl run --disk a.img",
        "vmlockctl run -- true",
        "vmlockctl run --disk a b -- true",
        "vmlockctl run --disk :shared -- true",
        "vmlockctl run --uuid web1 --disk a -- true",
        "vmlockctl run --name= --disk a -- true",
        "vmlockctl run --name 16 --disk a -- true",
        "vmlockctl run --disk a:ro -- true",
        "vmlockctl lock --wait 5 a",
        "vmlockctl lock rbd:pool/image",
        "vmlockctl lock",
        "vmlockctl lock --wait=never a",
        "vmlockctl run --wait=-1 --disk a -- true",
        "vmlockctl who",
        "vmlockctl --system --session list",
        "vmlockctl --system list --session",
        "vmlockctl completions tcsh",
        "vmlockctl doctor a b",
        "vmlockctl reload a",
        "vmlockctl lockspace",
        "vmlockctl lockspace create",
        "vmlockctl lockspace remove a b",
        "vmlockctl run --lease :shared -- true",
    ] {
        assert!(parse(line).unwrap_err().use_stderr(), "{line}");
    }
}

#[test]
fn words_after_the_dashes_are_the_command() {
    let line = "vmlockctl run --disk a -- qemu --json -- --help";
    let Command::Run(run) = parse(line).unwrap().command else { panic!("not run") };
    assert_eq!(run.command, ["qemu", "--json", "--", "--help"]);
}

#[test]
fn help_prints_the_help_of_the_command() {
    let help = |line: &str| {
        let line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse_or_help(&line).unwrap_err()
    };
    for (line, same) in [
        ("vmlockctl help", "vmlockctl --help"),
        ("vmlockctl help run", "vmlockctl run --help"),
        ("vmlockctl help lockspace create", "vmlockctl lockspace create --help"),
        ("vmlockctl --json help help", "vmlockctl help --help"),
    ] {
        assert!(!help(line).use_stderr(), "{line}");
        assert_eq!(help(line).to_string(), help(same).to_string(), "{line}");
    }
    assert!(help("vmlockctl help frobnicate").use_stderr());
}

#[test]
fn help_is_not_an_error() {
    for line in ["vmlockctl --help", "vmlockctl -h", "vmlockctl run --help", "vmlockctl --version"]
    {
        assert!(!parse(line).unwrap_err().use_stderr(), "{line}");
    }
}

/// clap wraps each line of the texts after the options separately.
#[test]
fn help_fits_narrow_terminals() {
    fn check(command: &clap::Command) {
        for text in [command.get_after_help(), command.get_after_long_help()].into_iter().flatten()
        {
            let text = text.to_string();
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.windows(2) {
                let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
                assert!(!(is_prose(pair[0]) && is_prose(pair[1])), "one paragraph: {pair:?}");
            }
            let aligned = lines.iter().filter(|line| line.starts_with(' '));
            let wide: Vec<_> = aligned.filter(|line| line.chars().count() > 60).collect();
            assert!(wide.is_empty(), "{}: {wide:?}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Arguments::command());
}
