//! Durations, as people write and read them.

use std::time::Duration;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// In the two largest units, as kubectl does: `45s`, `3m20s`, `5h10m`, `12d4h`.
pub(crate) fn format(seconds: u64) -> String {
    let parts = |large: u64, unit: char, small: u64, small_unit: char| {
        let rest = seconds % large / small;
        let first = seconds / large;
        if rest == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{rest}{small_unit}") }
    };
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => parts(MINUTE, 'm', 1, 's'),
        HOUR..DAY => parts(HOUR, 'h', MINUTE, 'm'),
        _ => parts(DAY, 'd', HOUR, 'h'),
    }
}

/// How long ago a time of RFC 3339 was; as it stands if it is none, and `0s` for a clock that is ahead of this one.
pub(crate) fn since(time: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(time, &Rfc3339) {
        Ok(time) => format(u64::try_from((now - time).whole_seconds()).unwrap_or(0)),
        Err(_) => time.to_owned(),
    }
}

/// How far ahead a time of RFC 3339 is, or how long ago it was; as it stands if it is none.
pub(crate) fn until(time: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(time, &Rfc3339) {
        Ok(time) if time > now => format!("in {}", format((time - now).whole_seconds().unsigned_abs())),
        Ok(time) => format!("{} ago", format((now - time).whole_seconds().unsigned_abs())),
        Err(_) => time.to_owned(),
    }
}

/// Reads `90s`, `10m`, `1h30m`, `2d`; a bare number is refused, since nobody knows its unit.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let mut characters = tail.chars();
        let unit = match characters.next()? {
            's' => 1,
            'm' => MINUTE,
            'h' => HOUR,
            'd' => DAY,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = characters.as_str();
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_two_largest_units() {
        let shown = [0, 59, 60, 200, 3600, 18_600, 86_400, 1_051_200, 86_460].map(format);
        assert_eq!(shown, ["0s", "59s", "1m", "3m20s", "1h", "5h10m", "1d", "12d4h", "1d"]);
    }

    #[test]
    fn reads_durations_with_units_only() {
        let seconds = |text| parse(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("2d"), Some(172_800));
        for text in ["", "5", "s", "1.5h", "-1s", "1w", "99999999999999999999d", "1m1"] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_age_is_counted_from_now() {
        let now = OffsetDateTime::parse("2026-11-24T12:00:00Z", &Rfc3339).expect("a time");
        assert_eq!(since("2026-11-24T11:58:30Z", now), "1m30s");
        assert_eq!(since("2026-11-24T12:58:30Z", now), "0s");
        assert_eq!(since("soon", now), "soon");
        assert_eq!(until("2026-11-24T12:01:30Z", now), "in 1m30s");
        assert_eq!(until("2026-11-24T11:00:00Z", now), "1h ago");
        assert_eq!(until("soon", now), "soon");
    }
}
