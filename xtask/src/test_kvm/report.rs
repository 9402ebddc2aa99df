//! What the tests in the emulated machine say, read from its console.

use super::RESULT_PREFIX;

/// What a test program's own summary begins a failure's line with.
const FAILED_INDENT: &str = "    ";

/// How a run of the tests ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The test program's exit status; none if the machine did not get there.
    status: Option<String>,
    /// The names of those that failed.
    pub(super) failed: Vec<String>,
    in_failures: bool,
}

impl Report {
    pub(super) fn passed(&self) -> bool {
        self.status.as_deref() == Some("0")
    }

    pub(super) fn read_line(&mut self, line: &str) {
        // A test without a line end of its own may precede it.
        if let Some((_, status)) = line.split_once(RESULT_PREFIX) {
            self.status = Some(status.to_owned());
        }
        if line == "failures:" {
            // The first such list holds what the tests printed, the second their names.
            self.in_failures = true;
            self.failed.clear();
        } else if line.starts_with("test result:") {
            self.in_failures = false;
        } else if self.in_failures
            && let Some(name) = line.strip_prefix(FAILED_INDENT)
            && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        {
            self.failed.push(name.to_owned());
        }
    }
}

/// The names of tests that needed another attempt, as a summary ends.
pub(super) fn named(flaky: &[String]) -> String {
    if flaky.is_empty() {
        return String::new();
    }
    format!("; at another attempt only: {}", flaky.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Report {
        let mut report = Report::default();
        for line in lines.lines() {
            report.read_line(line);
        }
        report
    }

    #[test]
    fn the_tests_that_failed_are_those_of_the_last_list() {
        let report = read(
            "test one ... ok\n\
             test two ... FAILED\n\
             failures:\n\
             ---- two stdout ----\n\
             \x20   words of a test\n\
             \x20   word\n\
             failures:\n\
             \x20   two\n\
             [   12.5] the kernel speaks\n\
             \x20   three\n\
             test result: FAILED. 1 passed; 2 failed\n\
             \x20   four\n\
             tombolo-test-result 101\n",
        );
        assert_eq!(report.failed, ["two", "three"]);
        assert!(!report.passed());
        assert_eq!(
            named(&report.failed),
            "; at another attempt only: two, three"
        );
    }

    #[test]
    fn what_does_not_say_that_it_passed_did_not() {
        assert!(!read("running 2 tests\n").passed());
        assert!(!read("ok tombolo-test-result 1\n").passed());
        assert!(read("ok tombolo-test-result 0\n").passed());
        assert_eq!(named(&[]), "");
    }
}
