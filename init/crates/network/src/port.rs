//! One link that is ours to configure: what is planned for it, and its DHCP client if it has one.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dhcproto::v4::Message;
use ipnet::IpNet;
use keelson_config::{AddressMethod, LinkSelector, MacAddress, StaticAddressing};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::advertisements;
use crate::dhcp::machine::{Lost, Random};
use crate::dhcp::message::Identity;
use crate::dhcp::socket::LinkSocket;
use crate::dhcp::{Client, Command, Destination, Event, Lease, lease};
use crate::dhcp6;
use crate::kernel::{Kernel, KernelError, Route};
use crate::links::Link;
use crate::plan::Plan;
pub use crate::port::v6::PortV6;
use crate::say::{failed, say};

mod v6;

/// Static routes go before those of leases, and among equals the first link goes first.
const STATIC_METRIC: u32 = 100;
const DHCP_METRIC: u32 = 1000;

/// A message that came in on a link.
#[derive(Debug)]
pub struct Packet {
    pub link: u32,
    pub message: Received,
}

#[derive(Debug)]
pub enum Received {
    V4(Message),
    V6(dhcp6::Message),
}

/// What every port needs from the daemon.
#[derive(Debug)]
pub struct Context {
    pub kernel: Kernel,
    pub packets: mpsc::Sender<Packet>,
    pub hostname: Option<String>,
    pub directory: PathBuf,
}

#[derive(Debug)]
pub struct Port {
    pub plan: Plan,
    pub client: Option<Client>,
    pub carrier: bool,
    /// Since when there is no carrier.
    pub without_carrier_since: Duration,
    /// The configured routes that are set.
    routed: Vec<Route>,
    /// The link's addresses when they were.
    routed_with: Vec<IpNet>,
    index: u32,
    name: String,
    mac: Option<MacAddress>,
    socket: Option<Arc<LinkSocket>>,
    reader: Option<JoinHandle<()>>,
    /// DHCPv6, on links that are configured by others.
    pub v6: Option<PortV6>,
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Port {
    /// Takes a link on: up, with its MTU, and with what an earlier daemon left.
    pub async fn adopt(context: &Context, link: &Link, plan: Plan, now: Duration) -> Self {
        let mut port = Self {
            plan,
            client: None,
            carrier: false,
            without_carrier_since: now,
            routed: Vec::new(),
            routed_with: Vec::new(),
            index: link.index,
            name: link.name.clone(),
            mac: link.mac,
            socket: None,
            reader: None,
            v6: None,
        };
        if let Some(mtu) = port.plan.mtu
            && mtu != link.mtu
        {
            tell(context.kernel.set_mtu(link.index, mtu).await);
        }
        let by_others = port.plan.method == AddressMethod::Dhcp;
        if let Err(error) = advertisements::set(&link.name, by_others) {
            failed(&error);
        }
        if by_others {
            port.start_client(context, now).await;
            port.v6 = port.mac.map(|mac| PortV6::new(context, &port.name, port.index, mac));
        }
        port
    }

    /// Whether this port still is the link's: a link that got another MAC address or plan starts over.
    pub fn fits(&self, link: &Link, plan: &Plan) -> bool {
        self.mac == link.mac && self.name == link.name && self.plan == *plan
    }

    async fn start_client(&mut self, context: &Context, now: Duration) {
        let Some(mac) = self.mac else { return };
        let kept = lease::load(&context.directory, &self.name, mac, now);
        if let Some(lease) = &kept {
            say(format_args!("{}: taking {} on from an earlier run", self.name, lease.address));
            self.apply(context, lease, None, now).await;
        }
        match LinkSocket::open(&self.name, self.index, mac) {
            Ok(socket) => self.listen(context, Arc::new(socket)),
            Err(error) => say(format_args!("{}: cannot open a packet socket: {error}", self.name)),
        }
        self.client = Some(Client::new(Identity { mac, hostname: context.hostname.clone() }, kept));
    }

    fn listen(&mut self, context: &Context, socket: Arc<LinkSocket>) {
        let (link, name, packets, reading) =
            (self.index, self.name.clone(), context.packets.clone(), Arc::clone(&socket));
        self.socket = Some(socket);
        self.reader = Some(tokio::spawn(async move {
            loop {
                let message = match reading.receive().await {
                    Ok(message) => message,
                    Err(error) => return say(format_args!("{name}: cannot receive: {error}")),
                };
                if packets.send(Packet { link, message: Received::V4(message) }).await.is_err() {
                    return;
                }
            }
        }));
    }

    /// The link is as the kernel says it is; brings about what is missing.
    pub async fn settle(&mut self, context: &Context, link: &Link, now: Duration, random: &mut impl Random) {
        if !link.up {
            tell(context.kernel.set_up(link.index).await);
        }
        if let AddressMethod::Static(addressing) = &self.plan.method {
            let addressing = addressing.clone();
            self.settle_addresses(context, link, &addressing).await;
        }
        self.settle_routes(context, link).await;
        if link.carrier != self.carrier {
            self.carrier = link.carrier;
            self.without_carrier_since = now;
            say(format_args!("{}: carrier {}", self.name, if link.carrier { "up" } else { "lost" }));
            let event = if link.carrier { Event::CarrierUp } else { Event::CarrierDown };
            self.handle(context, now, random, event).await;
            if let Some(v6) = &mut self.v6 {
                let event = if link.carrier { dhcp6::Event::CarrierUp } else { dhcp6::Event::CarrierDown };
                v6.handle(context, now, random, event).await;
                if link.carrier {
                    v6.solicit();
                }
            }
        }
        if let Some(v6) = &mut self.v6 {
            v6.routers_said(context, link.routers, now, random).await;
        }
    }

    async fn settle_addresses(&self, context: &Context, link: &Link, addressing: &StaticAddressing) {
        for net in addressing.addresses.iter().copied().filter(|net| !link.has(*net)) {
            match context.kernel.add_address(link.index, net, None).await {
                Ok(()) => say(format_args!("{}: {net}, as configured", self.name)),
                Err(error) => failed(&error),
            }
        }
    }

    /// The kernel drops routes when a link goes down or an address goes, so they are set again whenever the link comes back or its addresses
    /// change; and as often as it takes, for an IPv6 gateway is refused until there is a prefix to reach it by.
    async fn settle_routes(&mut self, context: &Context, link: &Link) {
        if !link.up {
            return self.routed.clear();
        }
        let wanted = configured_routes(&self.plan, link);
        let addresses: Vec<IpNet> = link.addresses.iter().map(|address| address.net).collect();
        if link.carrier != self.carrier || addresses != self.routed_with {
            self.routed_with = addresses;
            for route in std::mem::take(&mut self.routed).iter().filter(|route| !wanted.contains(route)) {
                tell(context.kernel.delete_route(route).await);
            }
        }
        for route in wanted {
            if self.routed.contains(&route) {
                continue;
            }
            match context.kernel.add_route(&route).await {
                Ok(()) => self.routed.push(route),
                Err(error) => failed(&error),
            }
        }
    }

    /// Passes an event to the DHCP client and carries out what it commands.
    pub async fn handle(&mut self, context: &Context, now: Duration, random: &mut impl Random, event: Event) {
        let Some(client) = &mut self.client else { return };
        let before = client.lease().cloned();
        for command in client.handle(now, random, event) {
            match command {
                Command::Send { message, to } => self.send(&message, to),
                Command::Apply(lease) => {
                    self.tell_lease(&lease, before.as_ref());
                    self.apply(context, &lease, before.as_ref(), now).await;
                    if let Some(mac) = self.mac
                        && let Err(error) = lease::keep(&context.directory, &self.name, mac, &lease)
                    {
                        failed(&error);
                    }
                }
                Command::Withdraw(lease, lost) => self.withdraw(context, &lease, lost).await,
            }
        }
    }

    fn send(&self, message: &Message, to: Destination) {
        let Some(socket) = &self.socket else { return };
        let sent = match (to, self.client.as_ref().and_then(Client::lease)) {
            (Destination::Server(server), Some(lease)) => socket.send_to_server(lease.address.addr(), server, message),
            _ => socket.broadcast(message),
        };
        // The client asks again in any case.
        if let Err(error) = sent {
            say(format_args!("{}: cannot send: {error}", self.name));
        }
    }

    fn tell_lease(&self, lease: &Lease, before: Option<&Lease>) {
        if before.is_some_and(|before| before.address == lease.address && before.routes == lease.routes) {
            return;
        }
        let duration = lease.duration.map_or("ever".to_owned(), |duration| format!("{} s", duration.as_secs()));
        let gateway = lease.gateway().map_or("no gateway".to_owned(), |gateway| format!("gateway {gateway}"));
        say(format_args!("{}: {} from {} for {duration}, {gateway}", self.name, lease.address, lease.server));
    }

    /// Puts a lease into effect and takes away what only the one before had.
    async fn apply(&self, context: &Context, lease: &Lease, before: Option<&Lease>, now: Duration) {
        let kernel = &context.kernel;
        if let Some(mtu) = lease.mtu.filter(|_| self.plan.mtu.is_none())
            && before.is_none_or(|before| before.mtu != Some(mtu))
        {
            tell(kernel.set_mtu(self.index, mtu).await);
        }
        tell(kernel.add_address(self.index, IpNet::V4(lease.address), lease.remaining(now)).await);
        let routes = self.routes(lease);
        for route in &routes {
            tell(kernel.add_route(route).await);
        }
        let Some(before) = before else { return };
        for route in self.routes(before).iter().filter(|route| !routes.contains(route)) {
            tell(kernel.delete_route(route).await);
        }
        if before.address != lease.address {
            tell(kernel.delete_address(self.index, IpNet::V4(before.address)).await);
        }
    }

    async fn withdraw(&self, context: &Context, lease: &Lease, lost: Lost) {
        let why = match lost {
            Lost::Expired => "the lease has expired",
            Lost::Refused => "the server refuses it",
        };
        say(format_args!("{}: giving up {}: {why}", self.name, lease.address));
        for route in self.routes(lease) {
            tell(context.kernel.delete_route(&route).await);
        }
        tell(context.kernel.delete_address(self.index, IpNet::V4(lease.address)).await);
        lease::forget(&context.directory, &self.name);
    }

    fn routes(&self, lease: &Lease) -> Vec<Route> {
        let outside = |gateway: Ipv4Addr| !lease.address.contains(&gateway);
        let mut routes: Vec<Route> = lease
            .routes
            .iter()
            .map(|route| Route {
                link: self.index,
                destination: IpNet::V4(route.destination),
                gateway: route.gateway.map(IpAddr::V4),
                // Clouds hand out /32 addresses with a gateway outside of them.
                onlink: route.gateway.is_some_and(outside),
                source: Some(IpAddr::V4(lease.address.addr())),
                metric: DHCP_METRIC.saturating_add(self.index),
                from_dhcp: true,
            })
            .collect();
        // What a gateway is reached by comes first.
        routes.sort_by_key(|route| route.gateway.is_some());
        routes
    }
}

/// The routes that the configuration asks for on this link as it is now: that of its gateway, and those whose gateway it reaches.
fn configured_routes(plan: &Plan, link: &Link) -> Vec<Route> {
    let metric = STATIC_METRIC.saturating_add(link.index);
    let mut routes = Vec::new();
    if let AddressMethod::Static(addressing) = &plan.method
        && let Some(gateway) = addressing.gateway
    {
        // For IPv6 the kernel chooses better, and refuses an address that it has not yet found to be free.
        let v4 = |address: &IpAddr| gateway.is_ipv4() && address.is_ipv4();
        let source = addressing.addresses.iter().map(IpNet::addr).find(v4);
        routes.push(Route { source, ..static_route(link, everything(gateway), gateway, metric) });
    }
    let reaches = |via: &IpAddr| link.addresses.iter().any(|address| address.net.contains(via));
    let wanted = plan.routes.iter().filter(|route| route.link != LinkSelector::Any || reaches(&route.via));
    routes.extend(wanted.map(|route| static_route(link, route.to, route.via, route.metric.unwrap_or(metric))));
    routes
}

fn static_route(link: &Link, destination: IpNet, gateway: IpAddr, metric: u32) -> Route {
    Route {
        link: link.index,
        destination,
        gateway: Some(gateway),
        onlink: false,
        source: None,
        metric,
        from_dhcp: false,
    }
}

/// All of the address's family.
fn everything(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// A request that fails leaves the link less than it should be; the next event of the link tries again.
pub fn tell(outcome: Result<(), KernelError>) {
    if let Err(error) = outcome {
        failed(&error);
    }
}
