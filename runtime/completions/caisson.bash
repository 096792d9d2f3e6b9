# shellcheck shell=bash
# Completion for bash: asks the program what may stand where the cursor is. To be read in by .bashrc, or installed as
# /usr/share/bash-completion/completions/caisson.

_caisson() {
    local words=() word glue='' shown i
    # bash takes --flag=value apart, the program wants it whole.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ ${#words[@]} -gt 0 && ($glue || $word == =) ]]; then words[-1]+=$word; else words+=("$word"); fi
        if [[ $word == = ]]; then glue=yes; else glue=''; fi
    done
    local value=${words[-1]} before=''
    if [[ $value == -*=* && $COMP_WORDBREAKS == *=* ]]; then
        before=${value%%=*}=
        value=${value#*=}
    fi
    COMPREPLY=()
    while IFS=$'\t' read -r shown _; do
        case $shown in
            :files) mapfile -t COMPREPLY < <(compgen -f -- "$value") ;;
            :directories) mapfile -t COMPREPLY < <(compgen -d -- "$value") ;;
            *) COMPREPLY+=("${shown#"$before"}") && continue ;;
        esac
        compopt -o filenames
    done < <("${COMP_WORDS[0]}" complete -- "${words[@]}" 2>/dev/null)
}

complete -F _caisson caisson
