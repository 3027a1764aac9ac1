//! Runs the plugins of one network: forth for ADD and CHECK, back for DEL.

use serde_json::Value;

use super::args::Command;
pub(super) use super::args::Target;
use super::args::{Additions, input};
use super::config::{NetworkList, Plugin};
use super::failure::InvokeError;
use super::invoke::{Answer, Call, Invoker};
use super::result::{NetworkResult, ResultError};

/// The plugins of one network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) invoker: &'a Invoker,
    pub(super) list: &'a NetworkList,
}

impl Chain<'_> {
    /// Every plugin gets the result of the one before it. The last result is that of the network.
    /// A failure comes with the last result there was.
    pub(super) async fn add(
        &self,
        target: &Target<'_>,
    ) -> Result<Value, (InvokeError, Option<Value>)> {
        let mut result = None;
        for plugin in &self.list.plugins {
            match self.add_one(plugin, target, result.as_ref()).await {
                Ok(next) => result = Some(next),
                Err(error) => return Err((error, result)),
            }
        }
        // A configuration without plugins does not pass its check.
        Ok(result.unwrap_or_default())
    }

    async fn add_one(
        &self,
        plugin: &Plugin,
        target: &Target<'_>,
        previous: Option<&Value>,
    ) -> Result<Value, InvokeError> {
        let additions = Additions {
            previous,
            pod: Some(target.pod),
            valid: None,
        };
        let answer = self
            .call(plugin, Command::Add, Some(target), &additions)
            .await?;
        self.read(&answer.stdout)
            .map_err(|source| answer.garbage(&plugin.kind, Command::Add, source))
    }

    fn read(&self, answer: &[u8]) -> Result<Value, ResultError> {
        NetworkResult::parse(answer)?.to_value(self.list.version)
    }

    /// Calls every plugin, whatever the others say, and returns what failed.
    pub(super) async fn del(
        &self,
        target: &Target<'_>,
        previous: Option<&Value>,
    ) -> Vec<InvokeError> {
        let previous = previous.filter(|_| self.list.version.has_check());
        let additions = Additions {
            previous,
            pod: Some(target.pod),
            valid: None,
        };
        let mut failures = Vec::new();
        for plugin in self.list.plugins.iter().rev() {
            match self
                .call(plugin, Command::Del, Some(target), &additions)
                .await
            {
                Err(error) if !error.is_unknown_container() => failures.push(error),
                Ok(_) | Err(_) => {}
            }
        }
        failures
    }

    pub(super) async fn check(
        &self,
        target: &Target<'_>,
        previous: &Value,
    ) -> Result<(), InvokeError> {
        let additions = Additions {
            previous: Some(previous),
            pod: Some(target.pod),
            valid: None,
        };
        for plugin in &self.list.plugins {
            self.call(plugin, Command::Check, Some(target), &additions)
                .await?;
        }
        Ok(())
    }

    /// Whether all plugins are there and ready to attach pods.
    pub(super) async fn status(&self) -> Result<(), InvokeError> {
        self.invoker.find_all(self.list)?;
        if self.list.version.has_status() {
            for plugin in &self.list.plugins {
                self.call(plugin, Command::Status, None, &Additions::default())
                    .await?;
            }
        }
        Ok(())
    }

    /// Calls every plugin, whatever the others say, and returns what failed.
    pub(super) async fn gc(&self, valid: &[&str]) -> Vec<InvokeError> {
        let additions = Additions {
            valid: Some(valid),
            ..Additions::default()
        };
        let mut failures = Vec::new();
        for plugin in &self.list.plugins {
            failures.extend(self.call(plugin, Command::Gc, None, &additions).await.err());
        }
        failures
    }

    async fn call(
        &self,
        plugin: &Plugin,
        command: Command,
        target: Option<&Target<'_>>,
        additions: &Additions<'_>,
    ) -> Result<Answer, InvokeError> {
        let input = input(self.list, plugin, additions);
        self.invoker
            .run(Call {
                plugin: &plugin.kind,
                command,
                target,
                input,
            })
            .await
    }
}
