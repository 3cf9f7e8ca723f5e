//! DHCPv6 on one link, and what its routers advertise of resolvers.

use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use keelson_config::MacAddress;
use tokio::task::JoinHandle;

use super::{Context, Packet, Received, tell};
use crate::advertisements::{self, Advertised, RouterFlags};
use crate::dhcp::machine::Random;
use crate::dhcp6::socket::LinkSocket;
use crate::dhcp6::{Client, Command, Event, Identity, Lease, Mode};
use crate::say::say;

#[derive(Debug)]
pub struct PortV6 {
    pub client: Client,
    pub advertised: Advertised,
    index: u32,
    name: String,
    socket: Option<Arc<LinkSocket>>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for PortV6 {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl PortV6 {
    pub fn new(context: &Context, name: &str, index: u32, mac: MacAddress) -> Self {
        let identity = Identity { mac };
        let mut port = Self {
            client: Client::new(identity),
            advertised: Advertised::default(),
            index,
            name: name.to_owned(),
            socket: None,
            reader: None,
        };
        match LinkSocket::open(name, index) {
            Ok(socket) => port.listen(context, Arc::new(socket), identity),
            // A kernel that was told to do without IPv6 has no routers to ask for it either.
            Err(error) => say(format_args!("{name}: no DHCPv6: {error}")),
        }
        port
    }

    fn listen(&mut self, context: &Context, socket: Arc<LinkSocket>, identity: Identity) {
        let (link, name, packets, reading) =
            (self.index, self.name.clone(), context.packets.clone(), Arc::clone(&socket));
        self.socket = Some(socket);
        self.reader = Some(tokio::spawn(async move {
            loop {
                let message = match reading.receive(identity).await {
                    Ok(message) => Received::V6(message),
                    Err(error) => return say(format_args!("{name}: cannot receive by DHCPv6: {error}")),
                };
                if packets.send(Packet { link, message }).await.is_err() {
                    return;
                }
            }
        }));
    }

    pub async fn routers_said(
        &mut self,
        context: &Context,
        flags: RouterFlags,
        now: Duration,
        random: &mut impl Random,
    ) {
        let mode = match flags {
            RouterFlags { managed: true, .. } => Mode::Addresses,
            RouterFlags { other: true, .. } => Mode::Information,
            RouterFlags { .. } => Mode::Nothing,
        };
        self.handle(context, now, random, Event::Mode(mode)).await;
    }

    /// A link that has just come up has no address to ask from yet; then the kernel asks.
    pub fn solicit(&self) {
        if let Err(error) = advertisements::solicit(self.index)
            && error.kind() != std::io::ErrorKind::AddrNotAvailable
        {
            say(format_args!("{}: cannot ask for routers: {error}", self.name));
        }
    }

    /// Passes an event to the client and carries out what it commands.
    pub async fn handle(&mut self, context: &Context, now: Duration, random: &mut impl Random, event: Event) {
        let before = self.client.lease().cloned();
        for command in self.client.handle(now, random, event) {
            match command {
                Command::Send(bytes) => self.send(&bytes),
                Command::Apply(lease) => {
                    if before.as_ref().is_none_or(|before| before.address != lease.address) {
                        say(format_args!("{}: {} by DHCPv6", self.name, lease.address));
                    }
                    tell(context.kernel.add_address(self.index, net(&lease), lease.remaining(now)).await);
                }
                Command::Withdraw(lease) => {
                    say(format_args!("{}: giving up {}", self.name, lease.address));
                    tell(context.kernel.delete_address(self.index, net(&lease)).await);
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) {
        let sent = self.socket.as_ref().map(|socket| socket.send(bytes));
        // Not yet, as long as the link's own address is being checked; the client asks again in any case.
        if let Some(Err(error)) = sent
            && error.kind() != std::io::ErrorKind::AddrNotAvailable
        {
            say(format_args!("{}: cannot send by DHCPv6: {error}", self.name));
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        [self.client.deadline(), self.advertised.deadline()].into_iter().flatten().min()
    }
}

/// What is on the link is for routers to say, so the address is all of its network.
fn net(lease: &Lease) -> IpNet {
    IpNet::V6(Ipv6Net::from(lease.address))
}
