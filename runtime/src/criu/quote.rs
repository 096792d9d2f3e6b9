//! What CRIU's log says of a failure. CRIU's answer is no more than an errno, and mostly 0.

use std::path::Path;

/// The lines of the log that have an error, each with the few before it, as `grep -n -B5 Error` shows them. Empty if there are none.
pub(crate) fn quote(log: &Path) -> Vec<String> {
    let Ok(text) = std::fs::read(log) else {
        return Vec::new(); // CRIU failed before it had a log.
    };
    let lines = around_errors(&String::from_utf8_lossy(&text));
    if lines.is_empty() {
        return lines;
    }
    let first = format!("--- Quoting {log:?}");
    std::iter::once(first)
        .chain(lines)
        .chain(["---".to_owned()])
        .collect()
}

fn around_errors(text: &str) -> Vec<String> {
    const BEFORE: usize = 5;
    let lines: Vec<&str> = text.lines().collect();
    let mut quoted = Vec::new();
    let mut next = 0;
    let errors = lines.iter().enumerate();
    for (at, _) in errors.filter(|(_, line)| line.contains("Error")) {
        let from = at.saturating_sub(BEFORE);
        if from > next && next > 0 {
            quoted.push("...".to_owned());
        }
        let from = from.max(next);
        let numbered = lines[from..=at].iter().zip(from + 1..);
        quoted.extend(numbered.map(|(line, number)| format!("{number}:{line}")));
        next = at + 1;
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::around_errors;

    #[test]
    fn errors_are_quoted_with_the_lines_before_them() {
        let text: String = (1..=30)
            .map(|n| match n {
                3 | 5 | 20 => format!("Error {n}\n"),
                _ => format!("line {n}\n"),
            })
            .collect();
        let quoted = around_errors(&text);
        assert_eq!(quoted[..2], ["1:line 1", "2:line 2"]);
        assert_eq!(quoted[2..5], ["3:Error 3", "4:line 4", "5:Error 5"]);
        assert_eq!(quoted[5..7], ["...", "15:line 15"]);
        assert_eq!(quoted.last().unwrap(), "20:Error 20");
        assert_eq!(quoted.len(), 12);
        assert!(around_errors("fine\n").is_empty());
    }
}
