//! Small values that people write as text: spans of time, sizes, rates, networks. Each is read by [`FromStr`], shown by
//! [`Display`] in one canonical way, and stored as that text.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// Reads and writes a type by its text.
macro_rules! by_text {
    ($($kind:ty),+ $(,)?) => {$(
        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(crate::model::text::ByText(std::marker::PhantomData))
            }
        }
    )+};
}
pub(crate) use by_text;

/// Takes a string, or a whole number as if it had been written in quotes.
pub(crate) struct ByText<T>(pub(crate) std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> serde::de::Visitor<'_> for ByText<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|why| E::custom(format_args!("{text:?}: {why}")))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(|why| E::custom(format_args!("{number}: {why}")))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(|why| E::custom(format_args!("{number}: {why}")))
    }
}

/// A span of time: `"250ms"`, `"5s"`, `"1m"`, `"2h"`; at most [`Span::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// The longest span that can be written: 30 days.
    pub const MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// A span of milliseconds.
    pub const fn millis(count: u64) -> Span {
        Span(Duration::from_millis(count))
    }

    /// A span of seconds.
    pub const fn secs(count: u64) -> Span {
        Span(Duration::from_secs(count))
    }

    /// Whether it means *off*.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// `None` where it means *off*.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

const SPANS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        const WANTED: &str = "wants a span such as \"250ms\", \"5s\", \"1m\" or \"2h\"";
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(WANTED)?;
        let count: u64 = text[..split].parse().map_err(|_| WANTED)?;
        let (_, unit) = SPANS.iter().find(|(unit, _)| *unit == text[split..].trim()).ok_or(WANTED)?;
        let millis = count.checked_mul(*unit).ok_or("wants at most 30 days")?;
        let span = Duration::from_millis(millis);
        if span > Span::MAX { Err("wants at most 30 days".into()) } else { Ok(Span(span)) }
    }
}

impl Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis() as u64;
        let (unit, factor) =
            SPANS.iter().find(|(_, factor)| millis != 0 && millis.is_multiple_of(*factor)).unwrap_or(&("s", 1));
        write!(out, "{}{unit}", millis / factor)
    }
}

/// A number of bytes: `1024`, `"64KiB"`, `"10MiB"`, `"1GiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        const WANTED: &str = "wants a size such as 1024, \"64KiB\", \"10MiB\" or \"1GiB\"";
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let count: u64 = text[..split].parse().map_err(|_| WANTED)?;
        let unit = match text[split..].trim() {
            "" => 1,
            name => SIZES.iter().find(|(unit, _)| *unit == name).ok_or(WANTED)?.1,
        };
        count.checked_mul(unit).map(Size).ok_or_else(|| WANTED.into())
    }
}

impl Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZES.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)).unwrap_or(&("B", 1));
        if self.0 == 0 { out.write_str("0B") } else { write!(out, "{}{unit}", self.0 / factor) }
    }
}

/// So many in such a span: `"100/s"`, `"6000/m"`, `"5/h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many; at least one.
    pub count: u64,
    /// In how long: a second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// How many a second.
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.per.as_secs_f64()
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        const WANTED: &str = "wants a rate such as \"100/s\", \"6000/m\" or \"5/h\"";
        let (count, unit) = text.split_once('/').ok_or(WANTED)?;
        let count: u64 = count.trim().parse().map_err(|_| WANTED)?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(WANTED.into()),
        };
        if count == 0 || count > 1_000_000_000 {
            return Err("wants at least 1 and at most 1000000000; leave rate_limit out for no limit".into());
        }
        Ok(Rate { count, per: Duration::from_secs(per) })
    }
}

impl Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(out, "{}/{unit}", self.count)
    }
}

/// Addresses that share a prefix: `"10.0.0.0/8"`, `"::1"` (one address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// The prefix; what lies behind `bits` is zero.
    pub address: IpAddr,
    /// How many bits of it count.
    pub bits: u8,
}

impl Network {
    /// Whether the address lies in it. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(ours) == u32::from(theirs) & mask
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(ours) == u128::from(theirs) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        const WANTED: &str = "wants a network such as \"10.0.0.0/8\" or an address such as \"::1\"";
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| WANTED)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| WANTED))?;
        if bits > most {
            return Err(format!("{bits} bits are too many: at most {most} for this kind of address"));
        }
        let network = Network { address, bits };
        if !network.contains(address) {
            return Err(format!("bits are set behind the first {bits}; set them to 0"));
        }
        Ok(network)
    }
}

impl Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.bits)
    }
}

by_text!(Span, Size, Rate, Network);

/// Letters to add, remove or change to make one word the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + usize::from(letter != *other)).min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

/// `"; least is one; is that meant?"` where one of the known words is near, else the words themselves.
pub(crate) fn meant<'a>(wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    // Words of any length come in here: what is far longer than ours is near to none.
    let near = (wrong.len() <= 64)
        .then(|| known.clone().map(|name| (distance(wrong, name), name)).min())
        .flatten()
        .filter(|(distance, _)| *distance <= (wrong.len() / 3).max(2));
    match near {
        Some((_, name)) => format!("{name} is one; is that meant?"),
        None => {
            let known: Vec<&str> = known.take(24).collect();
            if known.is_empty() { "there are none".into() } else { format!("there are: {}", known.join(", ")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: FromStr<Err = String> + Display>(text: &str) -> String {
        match text.parse::<T>() {
            Ok(value) => value.to_string(),
            Err(why) => format!("error: {why}"),
        }
    }

    #[test]
    fn spans_sizes_rates_and_networks_are_read_and_shown() {
        for (text, shown) in [("90s", "90s"), ("60s", "1m"), ("1500ms", "1500ms"), ("2h", "2h"), ("0s", "0s")] {
            assert_eq!(round::<Span>(text), shown);
        }
        assert!(round::<Span>("5").starts_with("error") && round::<Span>("99999999h").starts_with("error"));
        for (text, shown) in [("1024", "1KiB"), ("0", "0B"), ("10MiB", "10MiB"), ("1025B", "1025B")] {
            assert_eq!(round::<Size>(text), shown);
        }
        for (text, shown) in [("100/s", "100/s"), ("6 / m", "6/m")] {
            assert_eq!(round::<Rate>(text), shown);
        }
        assert!(round::<Rate>("0/s").starts_with("error") && round::<Rate>("5").starts_with("error"));
        for (text, shown) in [("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128"), ("0.0.0.0/0", "0.0.0.0/0")] {
            assert_eq!(round::<Network>(text), shown);
        }
        assert!(round::<Network>("10.0.0.1/8").contains("behind the first 8"));
        assert!(round::<Network>("10.0.0.0/33").contains("too many"));
    }

    #[test]
    fn a_network_contains_what_it_says() {
        let network: Network = "10.1.0.0/16".parse().expect("valid");
        for (address, inside) in [("10.1.2.3", true), ("10.2.0.0", false), ("::ffff:10.1.0.1", true), ("::1", false)] {
            assert_eq!(network.contains(address.parse().expect("an address")), inside, "{address}");
        }
        let all: Network = "::/0".parse().expect("valid");
        assert!(all.contains("2001:db8::1".parse().expect("an address")));
    }
}
