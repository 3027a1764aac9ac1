//! Line plots and box plots as SVG, written by hand: axes from zero, round ticks, a legend, no style sheet.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
const TICKS: u32 = 5;
/// Told apart by most colour-blind people (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// One runtime's line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// One bar from the least to the greatest value, with the median marked.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) greatest: f64,
}

/// What stands around a plot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) title: &'a str,
    pub(super) across: &'a str,
    pub(super) up: &'a str,
}

/// A plot of lines over a numeric axis.
pub(super) fn lines(words: Words<'_>, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = round_up(points().map(|point| point.0).fold(0.0, f64::max));
    let top = round_up(points().map(|point| point.1).fold(0.0, f64::max));
    let mut svg = frame(words, top);
    for tick in 0..=TICKS {
        let value = right * f64::from(tick) / f64::from(TICKS);
        text(
            &mut svg,
            (x(value / right), HEIGHT - BOTTOM + 18.0),
            "middle",
            &short(value),
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<_> = line
            .points
            .iter()
            .map(|(across, up)| format!("{:.1},{:.1}", x(across / right), y(up / top)))
            .collect();
        let _infallible = writeln!(
            svg,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/>"#,
            path.join(" ")
        );
        for point in path {
            let (across, up) = point.split_once(',').unwrap_or_default();
            let _infallible = writeln!(
                svg,
                r#"<circle cx="{across}" cy="{up}" r="3" fill="{colour}"/>"#
            );
        }
    }
    legend(&mut svg, lines.iter().map(|line| line.name.as_str()));
    svg + "</svg>\n"
}

/// A plot of bars in groups, one colour a name.
pub(super) fn bars(words: Words<'_>, bars: &[Bar]) -> String {
    let top = round_up(bars.iter().map(|bar| bar.greatest).fold(0.0, f64::max));
    let (groups, names) = (
        distinct(bars, |bar| &bar.group),
        distinct(bars, |bar| &bar.name),
    );
    let mut svg = frame(words, top);
    let (count, across) = (position(groups.len()), position(names.len()));
    for (index, group) in groups.iter().enumerate() {
        let middle = x((position(index) + 0.5) / count);
        text(&mut svg, (middle, HEIGHT - BOTTOM + 18.0), "middle", group);
    }
    let width = (WIDTH - LEFT - RIGHT) / count * 0.7 / across;
    for bar in bars {
        let group = groups.iter().position(|it| *it == bar.group).unwrap_or(0);
        let name = names.iter().position(|it| *it == bar.name).unwrap_or(0);
        let colour = COLOURS[name % COLOURS.len()];
        let left = x((position(group) + 0.15) / count) + width * position(name);
        let (high, low) = (y(bar.greatest / top), y(bar.least / top));
        let _infallible = writeln!(
            svg,
            r#"<rect x="{left:.1}" y="{high:.1}" width="{:.1}" height="{:.1}" fill="{colour}" fill-opacity="0.4"/>"#,
            width * 0.9,
            (low - high).max(1.0)
        );
        let middle = y(bar.median / top);
        let _infallible = writeln!(
            svg,
            r#"<line x1="{left:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="{colour}" stroke-width="3"/>"#,
            left + width * 0.9
        );
    }
    legend(&mut svg, names.iter().map(String::as_str));
    svg + "</svg>\n"
}

fn distinct(bars: &[Bar], part: fn(&Bar) -> &String) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for bar in bars {
        if !found.contains(part(bar)) {
            found.push(part(bar).clone());
        }
    }
    found
}

fn position(index: usize) -> f64 {
    f64::from(u32::try_from(index).unwrap_or(u32::MAX))
}

fn x(share: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * share
}

fn y(share: f64) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
}

/// Title, axes and the ticks of the upright axis, which ends at `top`.
fn frame(words: Words<'_>, top: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let title = escape(words.title);
    let _infallible = writeln!(
        svg,
        r#"<text x="{LEFT}" y="22" font-size="15">{title}</text>"#
    );
    for tick in 0..=TICKS {
        let share = f64::from(tick) / f64::from(TICKS);
        let level = y(share);
        let right = WIDTH - RIGHT;
        let _infallible = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{level:.1}\" y2=\"{level:.1}\" stroke=\"#ddd\"/>"
        );
        text(
            &mut svg,
            (LEFT - 6.0, level + 4.0),
            "end",
            &short(top * share),
        );
    }
    text(
        &mut svg,
        (f64::midpoint(LEFT, WIDTH), HEIGHT - 18.0),
        "middle",
        words.across,
    );
    text(&mut svg, (LEFT, TOP - 10.0), "end", words.up);
    svg
}

fn legend<'a>(svg: &mut String, names: impl Iterator<Item = &'a str>) {
    for (index, name) in names.enumerate() {
        let left = LEFT + 12.0 + 130.0 * position(index);
        let colour = COLOURS[index % COLOURS.len()];
        let _infallible = writeln!(
            svg,
            r#"<rect x="{left}" y="{}" width="12" height="12" fill="{colour}"/>"#,
            TOP - 20.0
        );
        text(svg, (left + 16.0, TOP - 10.0), "start", name);
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escape(words);
    let _infallible = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#
    );
}

fn escape(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The next of 1, 2, 5, 10, 20 … that is not less.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0];
    let step = steps.iter().find(|step| **step * power >= value);
    step.unwrap_or(&10.0) * power
}

fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, end) in [
            (0.0, 1.0),
            (0.3, 0.3),
            (7.2, 7.5),
            (42.0, 50.0),
            (100.0, 100.0),
            (101.0, 150.0),
        ] {
            assert!((round_up(value) - end).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn plots_are_well_formed_and_hold_their_points() {
        let words = Words {
            title: "a < b",
            across: "pods",
            up: "KB",
        };
        let line = Line {
            name: "husk".to_owned(),
            points: vec![(0.0, 0.0), (10.0, 100.0)],
        };
        let svg = lines(words, &[line]);
        assert!(
            svg.contains("a &lt; b") && svg.contains("700.0,50.0"),
            "{svg}"
        );
        let bar = Bar {
            group: "create".to_owned(),
            name: "husk".to_owned(),
            least: 1.0,
            median: 2.0,
            greatest: 3.0,
        };
        let svg = bars(words, &[bar]);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.ends_with("</svg>\n"));
    }
}
