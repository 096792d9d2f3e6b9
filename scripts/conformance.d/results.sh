# shellcheck shell=bash disable=SC2154 # scripts/conformance sets the options and paths
# One run of a suite with a runtime, and what the runs say.

# results RUNTIME: the file with its results
results() {
    local dir=$tree_dir/results
    if [[ $1 == caisson || ${#only[@]} -gt 0 ]]; then dir=$scripts/../target/conformance; fi
    echo "$dir/$where-$suite-$1.tap"
}

run_suite() {
    local runtime=$1 file status=0
    file=$(results "$runtime")
    case $where in
        native) "$scripts/test.d/isolated" pure "$own/inside" native "$tree_dir/tree" "$programs" "$suite" "$runtime" "${only[@]}" ;;
        vm)
            "$scripts/vm" --peers sid --init systemd --cpus 1 --timeout 14000 --payload "$tree_dir/tree" --payload "$programs" --payload "$own" -- \
                /payload/conformance.d/inside vm /payload/tree /payload/programs "$suite" "$runtime" "${only[@]}"
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

passed() { sed -nE '/ # skip/d; s/^ok [0-9]+ //p' "$(results "$1")" | sort; }

# compare RUNTIME: fails if runc passes what it does not, without a reason
compare() {
    local runtime=$1 test unexplained=0
    while read -r test; do
        if [[ $runtime == caisson ]] && grep -qxF -- "== $test" "$own/exceptions"; then
            echo "$suite: $runtime: excepted: $test"
        else
            echo "$suite: $runtime: runc only: $test"
            unexplained=$((unexplained + 1))
        fi
    done < <(comm -23 <(passed runc) <(passed "$runtime"))
    [[ $unexplained == 0 ]]
}
