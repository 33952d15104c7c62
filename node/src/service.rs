//! From recovered logs to service: shards bind their ports, learn each other's, and start to accept. Owns the
//! steps that shards take together at the start; shard 0 leads.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

use martlet_core::ShardId;
use martlet_net::listener::{Acceptor, ListenError, bind_node_port, bind_shard_port};
use martlet_net::{Gateway, ListenerFacts};
use martlet_runtime::{Class, TcpListener};
use martlet_shard::api::BrokerHandle;

use crate::broker::ShardBroker;
use crate::config::Gateways;
use crate::error::NodeError;
use crate::handle::BoundListener;
use crate::message::{Item, StartStep};
use crate::shard::Shard;

/// Sockets of one listener on one shard.
struct Bound {
    node: Vec<TcpListener>,
    own: Vec<TcpListener>,
}

/// Binds, agrees with the other shards, and accepts from then on.
pub(crate) async fn serve(shard: &Rc<Shard>, gateways: &Gateways) -> Result<(), NodeError> {
    let node_ports = match shard.id {
        ShardId(0) => None,
        _ => Some(expect(shard, node_ports_of).await),
    };
    let mut bound = Vec::new();
    for (index, config) in shard.config.listeners.iter().enumerate() {
        let port = node_ports.as_ref().and_then(|ports| ports.get(index).copied());
        let node = bind_node_port(&shard.runtime, config, port).await.map_err(listen_error)?;
        let own = bind_shard_port(&shard.runtime, config, shard.id).map_err(listen_error)?;
        bound.push(Bound { node, own });
    }
    let own = describe(shard, &bound);
    let table = if shard.id == ShardId(0) {
        let ports = bound.iter().filter_map(|bound| bound.node.first());
        let ports: Vec<u16> = ports.map(|listener| listener.local_address().port()).collect();
        shard.core.borrow().say_all(|| Item::Start(StartStep::NodePorts(ports.clone())));
        let table = gather(shard, own).await;
        shard.core.borrow().say_all(|| Item::Start(StartStep::Serve(table.clone())));
        table
    } else {
        shard.core.borrow().say(ShardId(0), Item::Start(StartStep::Bound(own)));
        expect(shard, table_of).await
    };
    shard.listeners.replace(table.clone());
    accept(shard, gateways, bound)?;
    if shard.id == ShardId(0) {
        shard.handle.ready(table);
    }
    Ok(())
}

fn listen_error(ListenError { address, error }: ListenError) -> NodeError {
    let remedy = match (error.kind(), error.raw_os_error()) {
        (ErrorKind::AddrInUse, _) => "stop what uses it, or choose another port",
        (ErrorKind::PermissionDenied, _) => "choose a port from 1024 on, or allow this user lower ones",
        // EMFILE and ENFILE have no kind of their own.
        (_, Some(23 | 24)) => "raise the limit of open files (`ulimit -n`, LimitNOFILE)",
        _ => "choose an address that this machine has",
    };
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
    NodeError::Listen { address, reason: format!("{text}: {remedy}") }
}

fn node_ports_of(step: &StartStep) -> Option<Vec<u16>> {
    match step {
        StartStep::NodePorts(ports) => Some(ports.clone()),
        _ => None,
    }
}

fn table_of(step: &StartStep) -> Option<Vec<BoundListener>> {
    match step {
        StartStep::Serve(table) => Some(table.clone()),
        _ => None,
    }
}

/// Waits for the first step that `wanted` takes.
async fn expect<T>(shard: &Shard, wanted: impl Fn(&StartStep) -> Option<T>) -> T {
    let arrived = &shard.steps.arrived;
    arrived.wait_for(|| shard.steps.start.borrow().iter().find_map(|(_, step)| wanted(step))).await
}

/// Waits until every shard has bound its ports and joins them into one table.
async fn gather(shard: &Shard, mut table: Vec<BoundListener>) -> Vec<BoundListener> {
    let others = usize::from(shard.config.shards) - 1;
    let all = shard.steps.arrived.wait_for(|| {
        let steps = shard.steps.start.borrow();
        let bound: Vec<Vec<BoundListener>> = steps
            .iter()
            .filter_map(|(_, step)| match step {
                StartStep::Bound(bound) => Some(bound.clone()),
                _ => None,
            })
            .collect();
        (bound.len() >= others).then_some(bound)
    });
    for bound in all.await {
        for (listener, other) in table.iter_mut().zip(bound) {
            listener.shards.extend(other.shards);
        }
    }
    for listener in &mut table {
        listener.shards.sort_unstable();
    }
    table
}

fn describe(shard: &Shard, bound: &[Bound]) -> Vec<BoundListener> {
    let pairs = shard.config.listeners.iter().zip(bound);
    let one = |(config, bound): (&martlet_net::ListenerConfig, &Bound)| BoundListener {
        name: config.name.clone(),
        protocol: config.protocol.clone(),
        advertised_host: config.advertised.clone(),
        node: bound.node.iter().map(TcpListener::local_address).collect(),
        shards: bound.own.first().map(|own| (shard.id, own.local_address())).into_iter().collect(),
    };
    pairs.map(one).collect()
}

fn accept(shard: &Rc<Shard>, gateways: &Gateways, bound: Vec<Bound>) -> Result<(), NodeError> {
    let limits = Rc::new(shard.config.connections.clone());
    for (config, bound) in shard.config.listeners.iter().zip(bound) {
        let gateway = gateway_of(gateways, config)?;
        let broker: BrokerHandle = Rc::new(ShardBroker { shard: shard.clone() });
        let facts = ListenerFacts { name: config.name.clone(), node: shard.config.node, shard: shard.id };
        let acceptor = Rc::new(Acceptor {
            runtime: shard.runtime.clone(),
            gateway,
            broker,
            facts: Rc::new(facts),
            limits: limits.clone(),
            memory: shard.memory.clone(),
            counters: shard.connections.clone(),
            drain: shard.drain.clone(),
        });
        for listener in bound.node.into_iter().chain(bound.own) {
            drop(shard.runtime.spawn(Class::Normal, "accept", acceptor.clone().run(listener)));
        }
    }
    Ok(())
}

/// The gateway that serves a listener.
///
/// # Errors
/// [`NodeError::UnknownProtocol`].
pub(crate) fn gateway_of(
    gateways: &Gateways,
    config: &martlet_net::ListenerConfig,
) -> Result<Arc<dyn Gateway<BrokerHandle>>, NodeError> {
    let found = gateways.iter().find(|gateway| gateway.protocol() == config.protocol);
    found.cloned().ok_or_else(|| NodeError::UnknownProtocol {
        listener: config.name.clone(),
        protocol: config.protocol.clone(),
        known: gateways.iter().map(|gateway| gateway.protocol()).collect::<Vec<_>>().join(", "),
    })
}
