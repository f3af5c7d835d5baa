//! What a gateway counts, read from its `/metrics`.

use anyhow::{Context, Result};

/// The sum of a metric's series that have all these labels (`reason="call"`); 0 without any.
///
/// # Errors
/// When one of them is no whole number.
pub fn sum(text: &str, name: &str, labels: &[&str]) -> Result<u64> {
    let series = text.lines().filter_map(|line| line.rsplit_once(' '));
    series
        .filter(|(series, _)| {
            series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
        })
        .map(|(series, value)| value.parse::<u64>().with_context(|| format!("no whole number: {series} {value}")))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_and_labels_are_summed() {
        let text = "# TYPE a gauge\na{x=\"1\",y=\"1\"} 2\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 7\nab 11\nc 0.5\n";
        let check = |name: &str, labels: &[&str], expected: u64| {
            assert_eq!(sum(text, name, labels).expect("whole numbers"), expected, "{name} {labels:?}");
        };
        check("a", &["x=\"1\""], 5);
        check("a", &["x=\"1\"", "y=\"2\""], 3);
        check("a", &[], 12);
        check("b", &[], 0);
        assert!(sum(text, "c", &[]).is_err());
    }
}
