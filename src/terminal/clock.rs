//! Local times and days of what happened. The ring's own times are UTC.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A time zone.
#[derive(Debug, Clone)]
pub struct Clock {
    zone: TimeZone,
}

impl Clock {
    /// The zone of this system, or of `TZ`; UTC where there is none.
    pub fn local() -> Clock {
        Clock {
            zone: TimeZone::system(),
        }
    }

    /// A zone that is told.
    pub fn in_zone(zone: TimeZone) -> Clock {
        Clock { zone }
    }

    /// A time of the ring (RFC 3339) as it is here. None for what is no time.
    pub fn at(&self, ts: &str) -> Option<Local> {
        let timestamp: Timestamp = ts.parse().ok()?;
        let zoned = timestamp.to_zoned(self.zone.clone());
        Some(Local { zoned })
    }

    /// The day that it is here.
    pub fn today(&self) -> Date {
        Timestamp::now().to_zoned(self.zone.clone()).date()
    }

    /// The day of a time of the ring.
    pub fn day(&self, ts: &str) -> Option<Date> {
        self.at(ts).map(|local| local.day())
    }
}

/// A time on the clock of this place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    zoned: Zoned,
}

impl Local {
    /// The day here.
    pub fn day(&self) -> Date {
        self.zoned.date()
    }

    /// Hours and minutes, as in `14:05`.
    pub fn time(&self) -> String {
        self.zoned.strftime("%H:%M").to_string()
    }
}

/// A day in words, as in `Thursday, 26 November 2026`.
pub fn in_words(day: Date) -> String {
    day.strftime("%A, %-d %B %Y").to_string()
}

/// A day as `YYYY-MM-DD`.
pub fn parse_day(text: &str) -> Option<Date> {
    // Other forms that jiff takes (times, `20261126`) are no day to a user of the old system.
    let shape = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if shape { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_local_and_days_too() {
        let clock = Clock::in_zone(TimeZone::fixed(jiff::tz::offset(2)));
        let local = clock.at("2026-11-26T22:59:59.123Z").expect("a time");
        assert_eq!(
            (local.time(), in_words(local.day())),
            ("00:59".to_owned(), "Friday, 27 November 2026".to_owned())
        );
        assert_eq!(clock.at("yesterday"), None);
        assert_eq!(clock.day(""), None);
    }

    #[test]
    fn a_day_has_one_form() {
        assert_eq!(parse_day("2026-11-01"), Some(jiff::civil::date(2026, 11, 1)));
        for bad in [
            "2026-11-31",
            "20261101",
            "2026-11-1",
            "1-11-2026",
            "",
            "2026-11-01T00:00:00",
            "２０２６",
        ] {
            assert_eq!(parse_day(bad), None, "{bad}");
        }
    }
}
