//! From a connection to a plugin: it registers, and is configured.

use prost::Message as _;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::connection::{Connection, Incoming};
use crate::discover::{Identity, Program};
use crate::error::{CallError, Refusal};
use crate::plugin::{PLUGIN_SERVICE, Plugin, RUNTIME_SERVICE};
use crate::ttrpc::{Request, Response, code};
use crate::{Config, NRI_VERSION, api, launch};

/// Every event that there is, as bits of a subscription.
const ALL_EVENTS: i32 = (1 << (api::Event::Last as i32 - 1)) - 1;

/// A plugin, and the calls that it makes.
pub(crate) type Joined = (Plugin, mpsc::Receiver<Incoming>);

/// Takes in a plugin that connected.
pub(crate) async fn connected(stream: UnixStream, config: &Config) -> Result<Joined, Refusal> {
    let (connection, mut incoming) = Connection::start(stream);
    let request = registration(&mut incoming, config).await?;
    let asked = api::RegisterPluginRequest::decode(request.request.payload.clone());
    let asked = asked.map_err(|error| Refusal::Call {
        call: "RegisterPlugin",
        source: error.into(),
    })?;
    let Some(identity) = Identity::new(&asked.plugin_idx, &asked.plugin_name) else {
        let refused = Refusal::Name(format!("{}-{}", asked.plugin_idx, asked.plugin_name));
        let answer = Response::error(code::INVALID_ARGUMENT, refused.to_string());
        request.answer(answer).await;
        return Err(refused);
    };
    request.answer(Response::ok(&api::Empty {})).await;
    let plugin = configure(connection, identity, String::new(), config).await?;
    Ok((plugin, incoming))
}

/// Starts a plugin and takes it in.
pub(crate) async fn launched(program: Program, config: &Config) -> Result<Joined, Refusal> {
    let (child, stream): (Child, UnixStream) = launch::launch(&program)?;
    let (connection, mut incoming) = Connection::start(stream);
    let request = registration(&mut incoming, config).await?;
    request.answer(Response::ok(&api::Empty {})).await;
    let mut plugin = configure(connection, program.identity, program.config, config).await?;
    plugin.child = Some(child);
    Ok((plugin, incoming))
}

/// Waits for the plugin's first call, which has to be its registration.
async fn registration(
    incoming: &mut mpsc::Receiver<Incoming>,
    config: &Config,
) -> Result<Incoming, Refusal> {
    let limit = config.registration_timeout;
    let first = tokio::time::timeout(limit, incoming.recv()).await;
    let call = first
        .map_err(|_| Refusal::Unregistered(limit))?
        .ok_or(Refusal::Gone)?;
    let Request {
        service, method, ..
    } = &call.request;
    if service == RUNTIME_SERVICE && method == "RegisterPlugin" {
        return Ok(call);
    }
    let answer = Response::error(code::UNIMPLEMENTED, "register first");
    call.answer(answer).await;
    Err(Refusal::Unregistered(limit))
}

async fn configure(
    connection: Connection,
    identity: Identity,
    text: String,
    config: &Config,
) -> Result<Plugin, Refusal> {
    let milliseconds =
        |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let asked = api::ConfigureRequest {
        config: text,
        runtime_name: config.runtime_name.clone(),
        runtime_version: config.runtime_version.clone(),
        registration_timeout: milliseconds(config.registration_timeout),
        request_timeout: milliseconds(config.request_timeout),
        nri_version: NRI_VERSION.to_owned(),
    };
    let limit = config.request_timeout;
    let request = Request::new(PLUGIN_SERVICE, "Configure", &asked, limit);
    let failed = |source: CallError| Refusal::Call {
        call: "Configure",
        source,
    };
    let answer = connection.call(request, limit).await.map_err(failed)?;
    let answer = api::ConfigureResponse::decode(answer).map_err(|error| failed(error.into()))?;
    let events = match answer.events {
        0 => ALL_EVENTS,
        events if events & !ALL_EVENTS == 0 => events,
        events => return Err(Refusal::Events(events & !ALL_EVENTS)),
    };
    Ok(Plugin {
        identity,
        events,
        policy: answer.failure_policy.unwrap_or_default(),
        limit,
        state_limit: config.registration_timeout.max(limit),
        connection,
        child: None,
    })
}
