//! `husk image`: pull, import, list and remove, through the running daemon.

mod progress;
mod screen;

use std::fs;
use std::io::Write;
use std::path::Path;

use tonic::Streaming;

use self::screen::Screen;
use super::arguments::{ImageCommand, Import, Output, Pull};
use super::daemon::Daemon;
use super::table::{columns, row, short, size};
use super::{Failure, Stage, write_json};
use crate::admin::v1 as admin;
use crate::config::Config;
use husk_cri_api::v1 as cri;

pub(super) async fn run(
    config: &Config,
    command: ImageCommand,
    stage: Stage<'_>,
) -> Result<(), Failure> {
    match command {
        ImageCommand::Pull(arguments) => pull(config, arguments, stage).await,
        ImageCommand::Import(arguments) => import(config, arguments, stage).await,
        ImageCommand::Ls(output) => list(config, output, stage.out).await,
        ImageCommand::Rm { images } => remove(config, images, stage.out).await,
    }
}

async fn pull(config: &Config, arguments: Pull, stage: Stage<'_>) -> Result<(), Failure> {
    let (username, password) = credentials(&arguments)?;
    let operation = format!("pulling {}", arguments.reference);
    let request = admin::PullImageRequest {
        reference: arguments.reference,
        username,
        password,
    };
    let mut client = Daemon::connect(config).await?.admin();
    let answer = client.pull_image(request).await;
    let events = answer
        .map_err(Failure::call(operation.clone()))?
        .into_inner();
    follow(events, &operation, stage).await
}

async fn import(config: &Config, arguments: Import, stage: Stage<'_>) -> Result<(), Failure> {
    let path = arguments.path;
    let operation = format!("importing {}", path.display());
    let absolute = fs::canonicalize(&path).map_err(|source| Failure::Input { path, source })?;
    let shown = absolute
        .to_str()
        .ok_or_else(|| Failure::Usage(format!("{}: the path is not UTF-8", absolute.display())))?;
    let request = admin::ImportImageRequest {
        path: shown.to_owned(),
        tag: arguments.tag.unwrap_or_default(),
    };
    let mut client = Daemon::connect(config).await?.admin();
    let answer = client.import_image(request).await;
    let events = answer
        .map_err(Failure::call(operation.clone()))?
        .into_inner();
    follow(events, &operation, stage).await
}

/// Shows the events until the stream ends.
async fn follow(
    mut events: Streaming<admin::Progress>,
    operation: &str,
    stage: Stage<'_>,
) -> Result<(), Failure> {
    let Stage { out, extent } = stage;
    let mut screen = Screen::new(extent);
    loop {
        match events.message().await {
            Ok(Some(event)) => screen.show(event, out)?,
            Ok(None) => return Ok(screen.finish(out)?),
            Err(status) => {
                screen.finish(out)?;
                return Err(Failure::call(operation)(status));
            }
        }
    }
}

/// User and password, both empty when none were given.
fn credentials(arguments: &Pull) -> Result<(String, String), Failure> {
    let text = match (&arguments.creds, &arguments.creds_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read_credentials(path)?,
        (None, None) => return Ok(Default::default()),
    };
    let (user, password) = text.split_once(':').unwrap_or((&text, ""));
    if user.is_empty() || password.is_empty() {
        let reason = "credentials are written USER:PASSWORD, and neither may be empty";
        return Err(Failure::Usage(reason.to_owned()));
    }
    Ok((user.to_owned(), password.to_owned()))
}

fn read_credentials(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::Input {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

async fn list(
    config: &Config,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut client = Daemon::connect(config).await?.images();
    let answer = client.list_images(cri::ListImagesRequest::default()).await;
    let images = answer
        .map_err(Failure::call("listing images"))?
        .into_inner()
        .images;
    if output.json {
        let images: Vec<serde_json::Value> = images.iter().map(json).collect();
        return write_json(&images, out);
    }
    out.write_all(show(&images).as_bytes())?;
    Ok(())
}

fn json(image: &cri::Image) -> serde_json::Value {
    serde_json::json!({
        "id": image.id,
        "tags": image.repo_tags,
        "digests": image.repo_digests,
        "size": image.size,
        "pinned": image.pinned,
    })
}

/// One line a name, so that each can be copied into another command.
fn show(images: &[cri::Image]) -> String {
    let mut rows = Vec::new();
    for image in images {
        let names = if image.repo_tags.is_empty() {
            &image.repo_digests
        } else {
            &image.repo_tags
        };
        let pinned = if image.pinned { "pinned" } else { "" };
        let line = |name: &str| row(&[name, &short(&image.id), &size(image.size), pinned]);
        if names.is_empty() {
            rows.push(line("-"));
        }
        rows.extend(names.iter().map(|name| line(name)));
    }
    rows.sort();
    rows.insert(0, row(&["IMAGE", "ID", "SIZE", ""]));
    columns(&rows)
}

/// Removes all of them even when some fail, and says which did.
async fn remove(
    config: &Config,
    images: Vec<String>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut client = Daemon::connect(config).await?.images();
    let mut failed = Vec::new();
    for image in images {
        match remove_one(&mut client, &image).await {
            Ok(true) => writeln!(out, "removed {image}")?,
            Ok(false) => failed.push(format!("{image}: no such image")),
            Err(status) => failed.push(format!("{image}: {}", status.message())),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Amiss(format!("removing {}", failed.join("; "))))
}

/// Whether there was such an image. The CRI's own removal is content when there is none, which
/// would hide a typing error.
async fn remove_one(
    client: &mut cri::image_service_client::ImageServiceClient<tonic::transport::Channel>,
    image: &str,
) -> Result<bool, tonic::Status> {
    let spec = Some(cri::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    });
    let request = cri::ImageStatusRequest {
        image: spec.clone(),
        verbose: false,
    };
    if client
        .image_status(request)
        .await?
        .into_inner()
        .image
        .is_none()
    {
        return Ok(false);
    }
    client
        .remove_image(cri::RemoveImageRequest { image: spec })
        .await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(creds: Option<&str>, file: Option<&Path>) -> Pull {
        Pull {
            reference: "busybox".to_owned(),
            creds: creds.map(str::to_owned),
            creds_file: file.map(Path::to_owned),
        }
    }

    #[test]
    fn credentials_come_from_the_command_line_or_a_file() {
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        let cases = [
            (None, Some(pair("", ""))),
            (Some("ann:s3cret"), Some(pair("ann", "s3cret"))),
            (Some("ann:with:colon"), Some(pair("ann", "with:colon"))),
            (Some("ann"), None),
            (Some("ann:"), None),
            (Some(":s3cret"), None),
        ];
        for (text, expected) in cases {
            let found = credentials(&arguments(text, None));
            assert_eq!(found.ok(), expected, "{text:?}");
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "ann:s3cret\n").expect("written");
        let found = credentials(&arguments(None, Some(file.path())));
        assert_eq!(found.expect("read"), pair("ann", "s3cret"));
        let missing = credentials(&arguments(None, Some(Path::new("/no/such/file"))));
        assert_eq!(missing.expect_err("missing").exit_status(), 66);
    }

    #[test]
    fn images_are_listed_by_name_and_unnamed_ones_too() {
        let image = |id: &str, tags: &[&str], digests: &[&str]| cri::Image {
            id: id.to_owned(),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            size: 4 << 20,
            pinned: id.ends_with('p'),
            ..Default::default()
        };
        let images = [
            image(
                "sha256:bbbbbbbbbbbbbbbbp",
                &["r/b:2", "r/b:1"],
                &["r/b@sha256:1"],
            ),
            image("sha256:cccccccccccccccc", &[], &["r/c@sha256:2"]),
            image("sha256:dddddddddddddddd", &[], &[]),
        ];
        let expected = "\
IMAGE         ID            SIZE
-             dddddddddddd  4.0 MiB
r/b:1         bbbbbbbbbbbb  4.0 MiB  pinned
r/b:2         bbbbbbbbbbbb  4.0 MiB  pinned
r/c@sha256:2  cccccccccccc  4.0 MiB
";
        assert_eq!(show(&images), expected);
    }
}
