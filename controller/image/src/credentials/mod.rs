//! Who to be for a registry: what the caller supplies, else what `auth.json` says.
//!
//! Supplied credentials belong to the image's own registry and are never shown to a mirror of another
//! host. The file's format is that of `containers-auth.json(5)` and Docker's `config.json`.

mod file;
mod helper;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

pub(crate) use file::{AuthFile, Found};
pub(crate) use helper::ask;

/// How to authenticate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A user name and password, sent to the registry or to its token server.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token, given to the token server for an access token.
    IdentityToken(String),
    /// An access token, sent to the registry as it is.
    RegistryToken(String),
}

/// The fields of a CRI `AuthConfig`, as the kubelet fills them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthFields {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    /// Base64 of `user:password`.
    pub auth: String,
    /// A refresh token.
    pub identity_token: String,
    /// An access token.
    pub registry_token: String,
}

/// The `auth` field is not base64 of `user:password`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the auth field is not base64 of user:password")]
pub struct AuthFieldError;

impl Credentials {
    /// Picks what the fields say: a token before a password, a password before the encoded field.
    /// Nothing if all are empty.
    ///
    /// # Errors
    /// The encoded field cannot be read.
    pub fn from_fields(fields: AuthFields) -> Result<Option<Self>, AuthFieldError> {
        if !fields.registry_token.is_empty() {
            return Ok(Some(Self::RegistryToken(fields.registry_token)));
        }
        if !fields.identity_token.is_empty() {
            return Ok(Some(Self::IdentityToken(fields.identity_token)));
        }
        if !fields.username.is_empty() {
            return Ok(Some(Self::Basic {
                username: fields.username,
                password: fields.password,
            }));
        }
        if fields.auth.is_empty() {
            return Ok(None);
        }
        decode_auth(&fields.auth).map(Some)
    }
}

/// Reads base64 of `user:password`, with padding or without. Trailing NULs are an old Docker's.
fn decode_auth(auth: &str) -> Result<Credentials, AuthFieldError> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let bytes = engine.decode(auth.trim()).map_err(|_| AuthFieldError)?;
    let text = String::from_utf8(bytes).map_err(|_| AuthFieldError)?;
    let (username, password) = text.split_once(':').ok_or(AuthFieldError)?;
    Ok(Credentials::Basic {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    })
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

impl std::fmt::Debug for AuthFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthFields({})", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_picked_in_order() {
        let basic = |username: &str, password: &str| Credentials::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        };
        let mut fields = AuthFields::default();
        assert_eq!(Credentials::from_fields(fields.clone()), Ok(None));
        // "user:pa:ss" with and without padding.
        for auth in ["dXNlcjpwYTpzcw==", "dXNlcjpwYTpzcw"] {
            fields.auth = auth.to_owned();
            let found = Credentials::from_fields(fields.clone());
            assert_eq!(found, Ok(Some(basic("user", "pa:ss"))));
        }
        fields.username = "u".to_owned();
        fields.password = "p".to_owned();
        assert_eq!(
            Credentials::from_fields(fields.clone()),
            Ok(Some(basic("u", "p")))
        );
        fields.identity_token = "i".to_owned();
        let found = Credentials::from_fields(fields.clone());
        assert_eq!(found, Ok(Some(Credentials::IdentityToken("i".to_owned()))));
        fields.registry_token = "r".to_owned();
        let found = Credentials::from_fields(fields);
        assert_eq!(found, Ok(Some(Credentials::RegistryToken("r".to_owned()))));
    }

    #[test]
    fn nonsense_is_refused_and_secrets_are_not_printed() {
        for auth in ["%%%", "bm9jb2xvbg=="] {
            let fields = AuthFields {
                auth: auth.to_owned(),
                ..AuthFields::default()
            };
            assert_eq!(Credentials::from_fields(fields), Err(AuthFieldError));
        }
        let secret = decode_auth("dXNlcjpwYTpzcw==").unwrap();
        assert_eq!(format!("{secret:?}"), "Basic(user)");
    }
}
