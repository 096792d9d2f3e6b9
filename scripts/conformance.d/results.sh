# shellcheck shell=bash disable=SC2154 # scripts/conformance sets the options and paths
# One run of a suite with a runtime, and what the runs say.

# results RUNTIME: the file with its results
results() {
    local dir=$tree_dir/results
    if [[ $1 == caisson || ${#only[@]} -gt 0 ]]; then dir=$logs; fi
    echo "$dir/$where-$suite-$1.tap"
}

run_suite() {
    local runtime=$1 file init=tiny status=0
    file=$(results "$runtime")
    if [[ $suite == runc-systemd ]]; then init=systemd; fi
    case $where in
        native) "$scripts/test.d/isolated" pure "$own/inside" native "$tree_dir/tree" "$logs/program" "$suite" "$runtime" "${only[@]}" ;;
        vm)
            # Nine tests want a second CPU.
            "$scripts/vm" --peers sid --init "$init" --cpus 2 --timeout 14000 --payload "$tree_dir/tree" --payload "$logs/program" --payload "$own" -- \
                /payload/conformance.d/inside vm /payload/tree /payload/program "$suite" "$runtime" "${only[@]}"
            ;;
    esac </dev/null >"$file.part" || status=$?
    # A test that failed makes it 1.
    [[ $status -le 1 ]] || { tail -n 20 "$file.part" >&2; echo "conformance: the run ended with status $status" >&2; exit "$status"; }
    tr -d '\r' <"$file.part" >"$file"
    rm "$file.part"
    printf '%s: %s: %s\n' "$suite" "$runtime" "$(count "$file")"
}

count() {
    awk '/^ok .* # skip/ { skipped++; next } /^ok / { passed++ } /^not ok / { failed++ }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$1"
}

# The names of tests, and of subtests behind those of their tests.
passed() {
    awk '{ name = $0; sub(/^ *(not )?ok [0-9]+ /, "", name) }
        { skipped = tolower(name) ~ /# skip/ }
        /^    ok / && !skipped { subtests[count++] = name }
        /^(not )?ok / { for (at = 0; at < count; at++) print name ": " subtests[at]; count = 0 }
        /^ok / && !skipped { print name }' "$(results "$1")" | sort
}

# compare RUNTIME: fails if runc passes what it does not, without a reason
compare() {
    local runtime=$1 test unexplained=0
    while read -r test; do
        if [[ $runtime == caisson ]] && grep -qxF -e "== $test" -e "== ${test%%: *}" "$own/exceptions"; then
            echo "$suite: $runtime: excepted: $test"
        else
            echo "$suite: $runtime: runc only: $test"
            unexplained=$((unexplained + 1))
        fi
    done < <(comm -23 <(passed runc) <(passed "$runtime"))
    [[ $unexplained == 0 ]]
}
