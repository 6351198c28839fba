//! Formats numbers for people.

/// `1 barrier`, `2 barriers`
pub fn counted(count: usize, [one, several]: [&str; 2]) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// Three significant digits: `0.0123`, `1.23`, `123`.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        x if !x.is_finite() => "–".into(),
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        x if x >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}", 100.0 * share) } else { "–".into() }
}

/// A number of bytes in the largest binary unit that fits.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() / 10) as usize;
    let unit = units[power.min(units.len() - 1)];
    if power == 0 {
        format!("{count} {unit}")
    } else {
        format!("{:.1} {unit}", count as f64 / 1024f64.powi(power as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        assert_eq!([0, 1023, 1024, 3 << 20].map(bytes), ["0 B", "1023 B", "1.0 KiB", "3.0 MiB"]);
        assert_eq!([0.0, 0.0123, 1.234, 12.34, 1234.0].map(figure), ["0", "0.012", "1.23", "12.3", "1234"]);
    }
}
