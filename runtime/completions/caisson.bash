# shellcheck shell=bash
# Completion for bash, of the runtime and of the supervisor's client: asks the program what may stand where the cursor is. To be read in by
# .bashrc, or installed as /usr/share/bash-completion/completions/caisson, with a link of the name caissonctl.

_caisson() {
    local words=() word glue='' shown i
    # bash takes --flag=value and image:tag apart, the program wants them whole.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ ${#words[@]} -gt 0 && ($glue || $word == [=:]) ]]; then words[-1]+=$word; else words+=("$word"); fi
        if [[ $word == [=:] ]]; then glue=yes; else glue=''; fi
    done
    local value=${words[-1]} before=''
    if [[ $value == -*=* && $COMP_WORDBREAKS == *=* ]]; then
        before=${value%%=*}=
        value=${value#*=}
    fi
    # What bash does not replace.
    local kept=''
    if [[ $value == *:* && $COMP_WORDBREAKS == *:* ]]; then kept=${value%:*}:; fi
    COMPREPLY=()
    while IFS=$'\t' read -r shown _; do
        case $shown in
            :files) mapfile -t COMPREPLY < <(compgen -f -- "$value") ;;
            :directories) mapfile -t COMPREPLY < <(compgen -d -- "$value") ;;
            *)
                shown=${shown#"$before"}
                COMPREPLY+=("${shown#"$kept"}") && continue ;;
        esac
        COMPREPLY=("${COMPREPLY[@]#"$kept"}")
        compopt -o filenames
    done < <("${COMP_WORDS[0]}" complete -- "${words[@]}" 2>/dev/null)
}

complete -F _caisson caisson caissonctl
