//! Who a container runs as: ids from the kubelet or the image, resolved against the text of the
//! image's passwd and group files.
//!
//! The files are untrusted. Their text comes in whole, capped by whoever read it; here a line is
//! looked at once and nothing is kept of the others. A number of 2³¹ or more is refused wherever it
//! decides anything, since some tools on the way would take it for a negative one, and so for root
//! (CVE-2024-40635).

use husk_cri_api::v1::{self, SupplementalGroupsPolicy};

/// The largest id: ids are kept in signed 32 bits in enough places to refuse more.
const LARGEST_ID: u32 = i32::MAX as u32;

/// Why a user cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A number beyond the valid ids.
    #[error("{field} {value} is refused: ids go from 0 to 2147483647")]
    OutOfRange {
        /// Where the number comes from.
        field: &'static str,
        /// The number as it was given.
        value: String,
    },
    /// A name that the image's /etc/passwd does not have.
    #[error("user {name:?} is not in the image's /etc/passwd")]
    UnknownUser {
        /// The name as it was given.
        name: String,
    },
    /// A name that the image's /etc/group does not have.
    #[error("group {name:?} is not in the image's /etc/group")]
    UnknownGroup {
        /// The name as it was given.
        name: String,
    },
    /// A group was asked for, but no user.
    #[error("run_as_group {group} is given without run_as_user or run_as_username")]
    GroupWithoutUser {
        /// The group as it was given.
        group: i64,
    },
}

/// A user or group as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// By number.
    Number(u32),
    /// By name, to be found in the image's files.
    Name(String),
}

/// What a container asks for, checked but not yet looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRequest {
    /// The user.
    pub user: Id,
    /// The primary group; without one it is the user's own, or 0.
    pub group: Option<Id>,
    /// Groups beside the primary one.
    pub supplemental: Vec<u32>,
    /// Whether the image's /etc/group adds further groups.
    pub policy: SupplementalGroupsPolicy,
}

/// The ids that a container's first process runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, sorted; the primary group is always among them, because a process
    /// that lost it by `setgid` would otherwise also lose a restriction (CVE-2022-2995).
    pub additional_gids: Vec<u32>,
    /// The home directory for the environment; `/` where the files name none.
    pub home: String,
}

impl ResolvedUser {
    /// The form for `ContainerStatus.user`.
    #[must_use]
    pub fn to_cri(&self) -> v1::ContainerUser {
        v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: self.uid.into(),
                gid: self.gid.into(),
                supplemental_groups: self
                    .additional_gids
                    .iter()
                    .map(|gid| (*gid).into())
                    .collect(),
            }),
        }
    }
}

/// What a container asks for: the kubelet's choice, else the image's `USER`, else root.
///
/// # Errors
/// Ids out of range, and a group without a user.
pub fn request(config: &v1::ContainerConfig, image_user: &str) -> Result<UserRequest, UserError> {
    let context = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.clone());
    let context = context.unwrap_or_default();
    let group = context.run_as_group.map(|group| group.value);
    let (user, image_group) = match (context.run_as_user, context.run_as_username.as_str()) {
        (Some(uid), _) => (Id::Number(checked("run_as_user", uid.value)?), None),
        (None, "") => match group {
            Some(group) => return Err(UserError::GroupWithoutUser { group }),
            None => image(image_user)?,
        },
        (None, name) => (parse("run_as_username", name)?, None),
    };
    let group = match group {
        Some(group) => Some(Id::Number(checked("run_as_group", group)?)),
        None => image_group,
    };
    let supplemental = context
        .supplemental_groups
        .iter()
        .map(|group| checked("supplemental_groups", *group))
        .collect::<Result<_, _>>()?;
    Ok(UserRequest {
        user,
        group,
        supplemental,
        policy: context.supplemental_groups_policy(),
    })
}

/// Checks the numbers of a security context.
pub(super) fn validate_ids(
    user: Option<&v1::Int64Value>,
    group: Option<&v1::Int64Value>,
    supplemental: &[i64],
) -> Result<(), UserError> {
    if let Some(user) = user {
        checked("run_as_user", user.value)?;
    }
    if let Some(group) = group {
        checked("run_as_group", group.value)?;
    }
    for group in supplemental {
        checked("supplemental_groups", *group)?;
    }
    Ok(())
}

/// An image's `USER`: `user[:group]`, each a name or a number, nothing for root.
fn image(user: &str) -> Result<(Id, Option<Id>), UserError> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let id = if user.is_empty() {
        Id::Number(0)
    } else {
        parse("image USER", user)?
    };
    let group = if group.is_empty() {
        None
    } else {
        Some(parse("image USER", group)?)
    };
    Ok((id, group))
}

/// Digits are a number, also where they are too many: a name of digits alone is never looked up.
fn parse(field: &'static str, text: &str) -> Result<Id, UserError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
        return Ok(Id::Name(text.to_owned()));
    }
    number(field, text).map(Id::Number)
}

fn number(field: &'static str, text: &str) -> Result<u32, UserError> {
    let out_of_range = || UserError::OutOfRange {
        field,
        value: text.chars().take(32).collect(),
    };
    text.parse::<u32>()
        .ok()
        .filter(|id| *id <= LARGEST_ID)
        .ok_or_else(out_of_range)
}

fn checked(field: &'static str, value: i64) -> Result<u32, UserError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= LARGEST_ID)
        .ok_or_else(|| UserError::OutOfRange {
            field,
            value: value.to_string(),
        })
}

/// Looks a request up in the text of the image's /etc/passwd and /etc/group; an absent file is
/// empty text. Bytes that are not UTF-8 only spoil the line that they are in.
///
/// # Errors
/// Names that the files do not have, and ids out of range in the lines that matter.
pub fn resolve(
    request: &UserRequest,
    passwd: &[u8],
    group: &[u8],
) -> Result<ResolvedUser, UserError> {
    let account = account(&request.user, passwd)?;
    let uid = match (&request.user, &account) {
        (Id::Number(uid), _) => *uid,
        (Id::Name(_), Some(account)) => account.uid,
        (Id::Name(name), None) => return Err(UserError::UnknownUser { name: name.clone() }),
    };
    let gid = match &request.group {
        Some(Id::Number(gid)) => *gid,
        Some(Id::Name(name)) => gid_of(name, group)?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut gids = request.supplemental.clone();
    gids.push(gid);
    if request.policy == SupplementalGroupsPolicy::Merge
        && let Some(account) = &account
    {
        gids.extend(memberships(&account.name, group)?);
    }
    gids.sort_unstable();
    gids.dedup();
    let home = account
        .map(|account| account.home)
        .filter(|home| home.starts_with('/'));
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids: gids,
        home: home.unwrap_or_else(|| "/".to_owned()),
    })
}

/// The part of a passwd(5) line that matters here.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn account(wanted: &Id, passwd: &[u8]) -> Result<Option<Account>, UserError> {
    const FIELD: &str = "/etc/passwd";
    for line in lines(passwd) {
        let fields: Vec<&str> = line.splitn(7, ':').collect();
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else {
            continue;
        };
        let matches = match wanted {
            Id::Name(wanted) => wanted == name,
            Id::Number(wanted) => uid.parse() == Ok(*wanted),
        };
        if matches && !name.is_empty() {
            return Ok(Some(Account {
                name: (*name).to_owned(),
                uid: number(FIELD, uid)?,
                gid: number(FIELD, gid)?,
                home: home(rest.get(1).copied().unwrap_or_default()),
            }));
        }
    }
    Ok(None)
}

/// A home with control characters would forge lines wherever it is written (CVE-2022-4318).
fn home(field: &str) -> String {
    if field.chars().any(char::is_control) {
        String::new()
    } else {
        field.to_owned()
    }
}

fn gid_of(wanted: &str, group: &[u8]) -> Result<u32, UserError> {
    groups(group)
        .find(|(name, _, _)| *name == wanted)
        .ok_or_else(|| UserError::UnknownGroup {
            name: wanted.to_owned(),
        })
        .and_then(|(_, gid, _)| number("/etc/group", gid))
}

fn memberships(user: &str, group: &[u8]) -> Result<Vec<u32>, UserError> {
    groups(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| number("/etc/group", gid))
        .collect()
}

/// Name, id and members of each group(5) line.
fn groups(group: &[u8]) -> impl Iterator<Item = (&str, &str, &str)> {
    lines(group).filter_map(|line| {
        let mut fields = line.splitn(4, ':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}
