//! The signal that asks a container to stop: the kubelet's choice, else the image's, else SIGTERM.

use husk_cri_api::v1::{self, Signal};

use super::facts::ImageDefaults;

/// A signal's number on Linux; 34 is the first real-time signal as C libraries count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(u8);

const SIGTERM: u8 = 15;
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl StopSignal {
    /// Chooses the signal. An image's value that names no signal is ignored: it is untrusted and
    /// stopping must work.
    #[must_use]
    pub fn choose(config: &v1::ContainerConfig, image: &ImageDefaults) -> Self {
        from_cri(config.stop_signal())
            .or_else(|| parse(&image.stop_signal))
            .map_or(Self(SIGTERM), Self)
    }

    /// A number as it was kept; one that is no signal is SIGTERM.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        let known = u8::try_from(number).ok();
        Self(known.filter(|n| (1..=RTMAX).contains(n)).unwrap_or(SIGTERM))
    }

    /// The number for `kill(2)`.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// The CRI's name for it, for `ContainerStatus.stop_signal`.
    #[must_use]
    pub fn to_cri(self) -> Signal {
        (1..=65)
            .filter_map(|value| Signal::try_from(value).ok())
            .filter(|signal| !is_alias(*signal))
            .find(|signal| from_cri(*signal) == Some(self.0))
            .unwrap_or(Signal::RuntimeDefault)
    }
}

/// Second names of signals that the CRI lists under another name too.
fn is_alias(signal: Signal) -> bool {
    signal == Signal::Sigcld || signal == Signal::Sigiot || signal == Signal::Sigpoll
}

/// The default's name ends in no signal, so it has no number.
fn from_cri(signal: Signal) -> Option<u8> {
    parse(signal.as_str_name().strip_prefix("SIGNAL_")?)
}

/// Reads `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` and the CRI's `SIGRTMINPLUS3`.
fn parse(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = offset(rest, &["PLUS", "+"])?;
        return RTMIN.checked_add(offset).filter(|number| *number <= RTMAX);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = offset(rest, &["MINUS", "-"])?;
        return RTMAX.checked_sub(offset).filter(|number| *number >= RTMIN);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

fn offset(rest: &str, signs: &[&str]) -> Option<u8> {
    if rest.is_empty() {
        return Some(0);
    }
    signs
        .iter()
        .find_map(|sign| rest.strip_prefix(sign))?
        .parse()
        .ok()
}

/// signal(7), the numbers of x86 and ARM.
const NAMES: [(&str, u8); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(cri: Signal, image: &str) -> (i32, Signal) {
        let mut config = v1::ContainerConfig::default();
        config.set_stop_signal(cri);
        let image = ImageDefaults {
            stop_signal: image.to_owned(),
            ..ImageDefaults::default()
        };
        let signal = StopSignal::choose(&config, &image);
        (signal.number(), signal.to_cri())
    }

    #[test]
    fn the_kubelet_wins_then_the_image_then_sigterm() {
        for (cri, image, number, reported) in [
            (Signal::RuntimeDefault, "", 15, Signal::Sigterm),
            (Signal::RuntimeDefault, "SIGQUIT", 3, Signal::Sigquit),
            (Signal::RuntimeDefault, "quit", 3, Signal::Sigquit),
            (Signal::RuntimeDefault, "37", 37, Signal::Sigrtminplus3),
            (
                Signal::RuntimeDefault,
                "SIGRTMIN+3",
                37,
                Signal::Sigrtminplus3,
            ),
            (
                Signal::RuntimeDefault,
                "SIGRTMAX-1",
                63,
                Signal::Sigrtmaxminus1,
            ),
            (Signal::RuntimeDefault, "65", 15, Signal::Sigterm),
            (Signal::RuntimeDefault, "SIGRTMIN+99", 15, Signal::Sigterm),
            (Signal::RuntimeDefault, "rm -rf", 15, Signal::Sigterm),
            (Signal::Sigusr1, "SIGQUIT", 10, Signal::Sigusr1),
            (Signal::Sigcld, "", 17, Signal::Sigchld),
            (Signal::Sigrtmin, "", 34, Signal::Sigrtmin),
            (Signal::Sigrtmax, "", 64, Signal::Sigrtmax),
            (Signal::Sigrtmaxminus14, "", 50, Signal::Sigrtmaxminus14),
        ] {
            assert_eq!(chosen(cri, image), (number, reported), "{cri:?} {image:?}");
        }
    }

    #[test]
    fn every_signal_of_the_protocol_has_a_number() {
        for value in 1..=65 {
            let signal = Signal::try_from(value).unwrap();
            assert!(from_cri(signal).is_some(), "{signal:?}");
        }
    }
}
