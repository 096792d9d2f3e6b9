# Completion for fish, of the runtime and of the supervisor's client: asks the program what may stand where the cursor is. To be installed in
# /usr/share/fish/vendor_completions.d, with a link of the name caissonctl.fish.

function __caisson_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l flag (string match -r -- '^-[^=]*=' $last)
    set -l value (string replace -r -- '^-[^=]*=' '' $last)
    for line in (command $words[1] complete -- $words[2..] "$last" 2>/dev/null)
        switch $line
            case :files
                printf '%s\n' "$flag"(__fish_complete_path "$value")
            case :directories
                printf '%s\n' "$flag"(__fish_complete_directories "$value")
            case '*'
                printf '%s\n' $line
        end
    end
end

complete -c caisson -f -a '(__caisson_complete)'
complete -c caissonctl -f -a '(__caisson_complete)'
