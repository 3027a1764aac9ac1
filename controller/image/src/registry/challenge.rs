//! The `WWW-Authenticate` header (RFC 9110, section 11.6.1): text in, challenges out.

/// One way to authenticate that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of one header. What cannot be read ends the list: a server that garbles its
/// header still gets the challenges before.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut text = Text(header);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        text.skip_separators();
        let Some(word) = text.token() else {
            return challenges;
        };
        text.skip_spaces();
        let value = text.equals().then(|| text.value()).flatten();
        match (value, challenges.last_mut()) {
            (Some(value), Some(current)) => {
                current.parameters.push((word.to_ascii_lowercase(), value));
            }
            // A parameter that belongs to no scheme.
            (Some(_), None) => return challenges,
            (None, _) => challenges.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: Vec::new(),
            }),
        }
    }
}

struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn skip_separators(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
    }

    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Option<&'a str> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.0.find(|c| !is_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn equals(&mut self) -> bool {
        let Some(rest) = self.0.strip_prefix('=') else {
            return false;
        };
        self.0 = rest;
        self.skip_spaces();
        true
    }

    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.token().map(str::to_owned);
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        self.0 = "";
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(header: &str) -> Vec<String> {
        let challenges = parse(header);
        let show = |c: &Challenge| {
            let parameters: Vec<String> = c
                .parameters
                .iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect();
            format!("{} {}", c.scheme, parameters.join("|"))
        };
        challenges.iter().map(show).collect()
    }

    #[test]
    fn challenges_are_read() {
        let rows: &[(&str, &[&str])] = &[
            (
                r#"Bearer realm="https://a.b/token",service="reg",scope="repository:x:pull,push""#,
                &["bearer realm=https://a.b/token|service=reg|scope=repository:x:pull,push"],
            ),
            (
                r#"Basic realm="Registry Realm""#,
                &["basic realm=Registry Realm"],
            ),
            (
                r#"BASIC Realm=plain , Bearer REALM = "x\"y""#,
                &["basic realm=plain", r#"bearer realm=x"y"#],
            ),
            (
                "Negotiate, Basic realm=\"r\"",
                &["negotiate ", "basic realm=r"],
            ),
            ("", &[]),
            (",,,", &[]),
            ("realm=\"orphan\"", &[]),
        ];
        for (header, expect) in rows {
            assert_eq!(show(header), *expect, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_ends(header in ".{0,200}") {
            let _ = parse(&header);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\", service=s"));
            prop_assert_eq!(challenges.len(), 1);
            prop_assert_eq!(challenges[0].parameter("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[0].parameter("service"), Some("s"));
        }
    }
}
