//! The images that a node has, and where it gets them from.

use std::fs;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};

use super::{COUNTER, Node, Place, elsewhere};
use crate::client::Client;
use crate::command::{command, output};
use crate::image::Image;
use crate::proxy::Proxy;
use crate::registry::{Access, Registry};
use crate::settings;
use crate::wait::{DEADLINE, wait_for};

impl Node {
    /// Loads an image without a registry.
    pub fn import(&self, image: &Image) -> Result<()> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let archive = self.directory().join(format!("import-{number}.tar"));
        image.write_archive(&archive)?;
        let result = match &self.place {
            Place::Private { .. } => output(self.husk(&["image", "import"])?.arg(&archive)),
            Place::Elsewhere { .. } => {
                let words = settings::import_command()
                    .context("HUSK_TEST_IMPORT says how images are loaded")?;
                let (program, arguments) =
                    words.split_first().context("HUSK_TEST_IMPORT is empty")?;
                let loaded = output(command(program).args(arguments).arg(&archive));
                loaded.and_then(|_text| self.shows(image.reference()))
            }
        };
        fs::remove_file(&archive)?;
        result.map(|_text| ())
    }

    /// Waits until an image that was loaded behind the CRI's back is seen there.
    fn shows(&self, reference: &str) -> Result<String> {
        let (socket, name) = (self.socket(), reference.to_owned());
        elsewhere::aside(async move || {
            wait_for("the image is seen", DEADLINE, async || {
                let client = Client::connect(&socket).await.ok()?;
                client.image(&name).await.ok()?.map(|image| image.id)
            })
            .await
        })
    }

    /// A registry that this node reaches, over plain HTTP unless it has TLS.
    pub fn registry(&self, access: Access) -> Result<Registry> {
        let registry = Registry::start(self.network(), access)?;
        if access != Access::Tls {
            self.permit_http(&registry.host())?;
        }
        self.note(registry.host());
        Ok(registry)
    }

    /// A proxy that this node reaches, in front of `registry`.
    pub fn proxy(&self, registry: &Registry) -> Result<Proxy> {
        let proxy = Proxy::start(self.network(), registry.address())?;
        self.permit_http(&proxy.host())?;
        self.note(proxy.host());
        Ok(proxy)
    }

    /// What is pulled from `host` is removed at the end from a runtime that goes on: a further round pulls it again.
    fn note(&self, host: String) {
        if let Place::Elsewhere { registries, .. } = &self.place {
            let mut registries = registries.lock().unwrap_or_else(PoisonError::into_inner);
            registries.push(host);
        }
    }

    /// Removes what was pulled, from a runtime that goes on.
    pub(super) fn remove_pulled(&self) -> Result<()> {
        let Place::Elsewhere { registries, .. } = &self.place else {
            return Ok(());
        };
        let hosts = std::mem::take(&mut *registries.lock().unwrap_or_else(PoisonError::into_inner));
        if hosts.is_empty() {
            return Ok(());
        }
        elsewhere::remove_images(self.socket(), hosts)
    }

    /// Other runtimes speak plain HTTP to loopback addresses anyway; Husk does where registries.conf says so.
    fn permit_http(&self, host: &str) -> Result<()> {
        let directory = self.directory().join("registries.conf.d");
        fs::create_dir_all(&directory)?;
        let text =
            format!("[[registry]]\nprefix = \"{host}\"\nlocation = \"{host}\"\ninsecure = true\n");
        Ok(fs::write(
            directory.join(format!("{}.conf", host.replace(':', "-"))),
            text,
        )?)
    }
}
