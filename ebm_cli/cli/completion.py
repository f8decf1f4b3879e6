"""What shells are told so that they complete the words of `ebm`: `ebm completion bash`, `zsh`, `fish`."""

from collections.abc import Sequence

from ebm_cli.errors import UserError, nearest

_BASH = """_ebm() {
  local out; out=$(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" ebm -sc query=bash 2>/dev/null)
  COMPREPLY=($(compgen -o nospace -W "$out" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _ebm ebm
"""

_ZSH = """(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
_ebm() {
  local out; out=$(COMP_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX" ebm -sc query=bash 2>/dev/null)
  local -a found; found=(${=out})
  if (( $#found )); then compadd -S '' -a found; else compset -P '*='; _files; fi
}
compdef _ebm ebm
"""

_FISH = """function __ebm_words
    set -l found (env COMP_LINE=(commandline -cp) ebm -sc query=bash 2>/dev/null | string split -n ' ')
    if count $found >/dev/null
        string join \\n $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c ebm -f -a '(__ebm_words)'
"""

SHELLS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(words: Sequence[str]) -> str:
    """The script of a shell, bash where none is named. Raises UserError for one that is not known."""
    name = words[0] if words else "bash"
    if name not in SHELLS or len(words) > 1:
        raise UserError(f"completion {' '.join(words)}: name one shell, bash, zsh or fish{nearest(name, [*SHELLS])}")
    return SHELLS[name]
