//! Figures: a value for each round, told as median, minimum and maximum.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// The values of one figure, one a round or one a kill.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(Vec<f64>);

impl Series {
    /// The smallest value that at least `quantile` of all do not exceed (nearest rank); NaN of none.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * quantile).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The middle value, or the mean of the two in the middle; NaN of none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (lower, upper) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        match (sorted.get(lower), sorted.get(upper)) {
            (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
            _ => f64::NAN,
        }
    }

    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// Figures in the order in which they came up. A name ends in its unit; a ratio has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(Vec<(String, Series)>);

impl Figures {
    /// Adds a value to the figure of that name.
    pub fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, series)) => series.0.push(value),
            None => self.0.push((name.to_owned(), Series(vec![value]))),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Series)> {
        self.0.iter().map(|(name, series)| (name.as_str(), series))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let described = self.iter().map(|(name, series)| {
            let description = json!({
                "median": series.median(),
                "min": series.min(),
                "max": series.max(),
                "p99": series.quantile(0.99),
                "values": series.0,
            });
            (name.to_owned(), description)
        });
        described.collect::<Map<String, Value>>().serialize(serializer)
    }
}

/// A number with as many digits as say something: three, more if it is larger.
pub fn short(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        Series(values.to_vec())
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(series(&[5.0, 1.0, 3.0]).median(), 3.0);
        assert_eq!(series(&[4.0, 1.0, 3.0, 100.0]).median(), 3.5);
        assert!(series(&[]).median().is_nan());
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let hundred = series(&hundred);
        assert_eq!((hundred.min(), hundred.max()), (1.0, 100.0));
        assert_eq!((hundred.quantile(0.5), hundred.quantile(0.99)), (50.0, 99.0));
        assert_eq!(series(&[7.0, 9.0]).quantile(0.99), 9.0);
    }

    #[test]
    fn figures_keep_their_order_and_collect_their_values() {
        let mut figures = Figures::default();
        for round in 1..=2 {
            figures.add("late_ms", f64::from(round));
            figures.add("early_ms", f64::from(round * 10));
        }
        let names: Vec<&str> = figures.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["late_ms", "early_ms"]);
        let json = serde_json::to_value(&figures).expect("JSON");
        assert_eq!(json["early_ms"]["median"], 15.0);
        assert_eq!(json["late_ms"]["values"], json!([1.0, 2.0]));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.123, 12.34, 123.4, 27_123.4, f64::NAN].map(short);
        assert_eq!(shown, ["0.12", "12.3", "123", "27123", "-"]);
    }
}
