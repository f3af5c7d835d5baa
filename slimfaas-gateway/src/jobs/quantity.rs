//! Kubernetes quantities, as far as two of them must be compared. Pure.

/// In billionths, so that every suffix is a whole number of them. `None`: not a quantity.
pub fn parse(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: u128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => 1_000_000_000,
        "k" => 1_000_000_000_000,
        "M" => 10_u128.pow(15),
        "G" => 10_u128.pow(18),
        "T" => 10_u128.pow(21),
        "P" => 10_u128.pow(24),
        "Ki" => 1_000_000_000 << 10,
        "Mi" => 1_000_000_000 << 20,
        "Gi" => 1_000_000_000 << 30,
        "Ti" => 1_000_000_000 << 40,
        "Pi" => 1_000_000_000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 15 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = digits(fraction)?.checked_mul(factor)? / scale;
    digits(whole)?.checked_mul(factor)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_compare_across_their_forms() {
        let ordered = ["0", "1n", "100m", "0.5", "1", "1.5", "1k", "1Ki", "400Mi", "0.5Gi", "1G", "1Gi", "2T"];
        for pair in ordered.windows(2) {
            assert!(parse(pair[0]).unwrap() < parse(pair[1]).unwrap(), "{pair:?}");
        }
        assert_eq!(parse("1000m"), parse("1"));
        assert_eq!(parse("1024Mi"), parse("1Gi"));
        assert_eq!(parse(".5"), parse("500m"));
        for wrong in ["", "-1", "1e3", "m", "1.2.3", "1 Gi", "1gb", "9999999999999999Pi", "Infinity"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
