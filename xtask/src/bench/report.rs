//! Tables for people.

use crate::terminal::{Colour, line, paint};

/// Prints a table: the first column to the left, the others to the right.
pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) {
    line(&format!("\n{}", paint(Colour::Bold, title)));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0))
        .collect();
    let head: Vec<String> = head.iter().map(|text| (*text).to_owned()).collect();
    line(&paint(Colour::Dim, &aligned(&head, &widths)));
    rows.iter().for_each(|row| line(&aligned(row, &widths)));
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (text, width))| match column {
        0 => format!("{text:<width$}"),
        _ => format!("{text:>width$}"),
    });
    cells.collect::<Vec<_>>().join("  ")
}

/// The middle one; of an even number, the lower of the two. `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The value that `quantile` of all are at or below; `None` of nothing.
pub(crate) fn quantile(mut values: Vec<f64>, quantile: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a quantile of a length is an index")]
    let rank = (values.len() as f64 * quantile).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics_are_values_that_were_seen() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
        assert_eq!(quantile((1..=100).map(f64::from).collect(), 0.99), Some(99.0));
        assert_eq!(quantile(vec![7.0], 0.5), Some(7.0));
        assert_eq!(quantile(vec![], 0.5), None);
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(aligned(&["a".into(), "1".into()], &[3, 4]), "a       1");
    }
}
