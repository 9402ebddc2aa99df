//! What was found: each figure is the median of its rounds, beside the bar that
//! the proxy is held to.

use std::io::Write as _;

use comfy_table::{Table, presets};
use serde::Serialize;

/// What is measured, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    KeepAlive,
    KeepAlivePerCore,
    KeepAliveHttp2,
    KeepAliveHttp2PerCore,
    SteadyP50,
    SteadyP99,
    AddedP50,
    AddedP99,
    BearableRate,
    BearableAddedP50,
    BearableAddedP99,
    NewConnections,
    NewConnectionsPerCore,
    Bulk,
    BulkPerCore,
    EventsP50,
    EventsP99,
    EventsAddedP50,
    EventsAddedP99,
    IdleMemory,
    TakeP50,
    TakeP99,
    AttachP50,
    AttachP99,
}

/// The best that is asked of a figure.
#[derive(Clone, Copy, Debug)]
enum Bar {
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// The route that the bars are for.
pub(crate) const MEASURED: &str = "tombolo";
/// In the order of the columns.
pub(crate) const ROUTES: [&str; 4] = ["direct", MEASURED, "squid", "mitmproxy"];

/// Everything, as it grows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    samples: Vec<(What, &'static str, f64)>,
}

/// One figure, for programs.
#[derive(Debug, Serialize)]
struct Figure {
    what: What,
    unit: &'static str,
    route: &'static str,
    median: f64,
    rounds: Vec<f64>,
    /// Whether the bar was reached, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
}

impl What {
    const ALL: [Self; 24] = [
        Self::KeepAlive,
        Self::KeepAlivePerCore,
        Self::KeepAliveHttp2,
        Self::KeepAliveHttp2PerCore,
        Self::SteadyP50,
        Self::SteadyP99,
        Self::AddedP50,
        Self::AddedP99,
        Self::BearableRate,
        Self::BearableAddedP50,
        Self::BearableAddedP99,
        Self::NewConnections,
        Self::NewConnectionsPerCore,
        Self::Bulk,
        Self::BulkPerCore,
        Self::EventsP50,
        Self::EventsP99,
        Self::EventsAddedP50,
        Self::EventsAddedP99,
        Self::IdleMemory,
        Self::TakeP50,
        Self::TakeP99,
        Self::AttachP50,
        Self::AttachP99,
    ];

    /// Words, unit and bar.
    fn told(self) -> (&'static str, &'static str, Bar) {
        use Bar::{AtLeast, AtMost};
        match self {
            Self::KeepAlive => ("1 KiB answers, HTTP/1.1 kept alive", "1/s", Bar::None),
            Self::KeepAlivePerCore => ("the same, per core", "1/s", AtLeast(15_000.0)),
            Self::KeepAliveHttp2 => ("1 KiB answers, HTTP/2", "1/s", Bar::None),
            Self::KeepAliveHttp2PerCore => ("HTTP/2, per core", "1/s", AtLeast(15_000.0)),
            Self::SteadyP50 => ("latency at 5,000/s, p50", "µs", Bar::None),
            Self::SteadyP99 => ("latency at 5,000/s, p99", "µs", Bar::None),
            Self::AddedP50 => ("added at 5,000/s, p50", "µs", AtMost(150.0)),
            Self::AddedP99 => ("added at 5,000/s, p99", "µs", AtMost(1000.0)),
            Self::BearableRate => ("half of what it can", "1/s", Bar::None),
            Self::BearableAddedP50 => ("added at that rate, p50", "µs", Bar::None),
            Self::BearableAddedP99 => ("added at that rate, p99", "µs", Bar::None),
            Self::NewConnections => ("new TLS connections", "1/s", Bar::None),
            Self::NewConnectionsPerCore => ("the same, per core", "1/s", AtLeast(3000.0)),
            Self::Bulk => ("one long body", "Gbit/s", Bar::None),
            Self::BulkPerCore => ("the same, per core", "Gbit/s", AtLeast(5.0)),
            Self::EventsP50 => ("an event's delay, p50", "µs", Bar::None),
            Self::EventsP99 => ("an event's delay, p99", "µs", Bar::None),
            Self::EventsAddedP50 => ("added to an event, p50", "µs", AtMost(1000.0)),
            Self::EventsAddedP99 => ("added to an event, p99", "µs", AtMost(1000.0)),
            Self::IdleMemory => ("memory of an idle sandbox", "KiB", AtMost(1024.0)),
            Self::TakeP50 => ("a slot of the pool, p50", "µs", Bar::None),
            Self::TakeP99 => ("a slot of the pool, p99", "µs", AtMost(1000.0)),
            Self::AttachP50 => ("hand-over and attach, p50", "µs", Bar::None),
            Self::AttachP99 => ("hand-over and attach, p99", "µs", Bar::None),
        }
    }
}

impl Bar {
    fn is_reached(self, value: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtLeast(bar) => Some(value >= bar),
            Self::AtMost(bar) => Some(value <= bar),
        }
    }

    fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::AtLeast(bar) => format!("≥ {}", digits(bar)),
            Self::AtMost(bar) => format!("≤ {}", digits(bar)),
        }
    }
}

impl Report {
    /// One round's figure of a route.
    pub(crate) fn push(&mut self, what: What, route: &'static str, value: f64) {
        self.samples.push((what, route, value));
    }

    /// The median so far.
    pub(crate) fn median(&self, what: What, route: &str) -> Option<f64> {
        median(&self.rounds(what, route))
    }

    fn rounds(&self, what: What, route: &str) -> Vec<f64> {
        let mine = self.samples.iter();
        mine.filter(|(of, by, _)| *of == what && *by == route)
            .map(|(_, _, value)| *value)
            .collect()
    }

    fn figures(&self) -> Vec<Figure> {
        let pairs = What::ALL
            .into_iter()
            .flat_map(|what| ROUTES.map(|route| (what, route)));
        let figure = |(what, route): (What, &'static str)| {
            let rounds = self.rounds(what, route);
            let median = median(&rounds)?;
            let (_, unit, bar) = what.told();
            let reached = bar.is_reached(median).filter(|_| route == MEASURED);
            Some(Figure {
                what,
                unit,
                route,
                median,
                rounds,
                reached,
            })
        };
        pairs.filter_map(figure).collect()
    }

    /// As JSON, or as a table in Markdown.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let text = if as_json {
            serde_json::to_string_pretty(&self.figures())?
        } else {
            self.table()
        };
        writeln!(std::io::stdout(), "{text}")?;
        Ok(())
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(
            ["Figure", "Unit"]
                .into_iter()
                .chain(ROUTES)
                .chain(["Aim", ""]),
        );
        for what in What::ALL {
            let medians = ROUTES.map(|route| self.median(what, route));
            if medians.iter().all(Option::is_none) {
                continue;
            }
            let (words, unit, bar) = what.told();
            let reached = self
                .median(what, MEASURED)
                .and_then(|own| bar.is_reached(own));
            let verdict = match reached {
                None => "",
                Some(true) => "reached",
                Some(false) => "missed",
            };
            let mut cells = vec![words.to_owned(), unit.to_owned()];
            cells.extend(medians.map(|median| median.map_or(String::new(), digits)));
            cells.extend([bar.text(), verdict.to_owned()]);
            table.add_row(cells);
        }
        table.to_string()
    }
}

fn median(rounds: &[f64]) -> Option<f64> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// As many digits as mean something.
fn digits(value: f64) -> String {
    if value.abs() >= 100.0 {
        return format!("{value:.0}");
    }
    if value.abs() >= 10.0 {
        return format!("{value:.1}");
    }
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_the_measured_route_and_medians_decide() {
        let mut report = Report::default();
        for value in [9_000.0, 16_000.0, 20_000.0] {
            report.push(What::KeepAlivePerCore, MEASURED, value);
        }
        report.push(What::KeepAlivePerCore, "squid", 1.0);
        let figures = report.figures();
        let verdicts: Vec<_> = figures
            .iter()
            .map(|figure| (figure.route, figure.median, figure.reached))
            .collect();
        let expected = [(MEASURED, 16_000.0, Some(true)), ("squid", 1.0, None)];
        assert_eq!(verdicts, expected);
        assert!(report.table().contains("reached"));
    }

    #[test]
    fn what_is_added_may_be_at_most_the_bar() {
        for (value, expected) in [(150.0, true), (151.0, false)] {
            let (_, _, bar) = What::AddedP50.told();
            assert_eq!(bar.is_reached(value), Some(expected), "{value}");
        }
    }
}
