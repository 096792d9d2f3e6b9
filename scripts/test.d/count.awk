# Counts tests in logs of libtest, and claims in that of the demo. Prints the names of those that were skipped in every log they are in, then
# 'N passed, N failed, N skipped'. A log whose last line tells of a failure that is no test's counts as one failed.

/^skipped: .* \[[^ ]*\]$/ {
    name = substr($NF, 2, length($NF) - 2)
    left_out[FILENAME, name] = 1
}
/^test [^ ]+ .*\.\.\. ok$/ {
    seen[$2] = 1
    if ((FILENAME, $2) in left_out) skipped++
    else { passed++; worked[$2] = 1 }
}
/^test [^ ]+ .*\.\.\. FAILED$/ {
    failed++
    failed_in[FILENAME]++
    worked[$2] = 1
}
/^true: / { passed++ }
/^NOT TRUE: / {
    failed++
    failed_in[FILENAME]++
}
/^run ended with status [1-9]/ && !failed_in[FILENAME] { failed++ }
END {
    for (name in seen) if (!(name in worked)) print name
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
}
