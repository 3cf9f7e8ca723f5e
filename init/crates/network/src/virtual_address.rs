//! The cluster's virtual address, while this node has it.
//!
//! keelson-cluster says until when ([`VirtualAddress`]), and says it anew long before; at the moment that was said last the address goes,
//! whatever has become of keelson-cluster. Should this process be gone by then, the kernel takes the address away: it is added with as
//! short a life. So a node that can no longer know that it has the address does not have it.
//!
//! It is on the link whose network it is of, as a single address: no route and no prefix belong to it, and the node speaks from it to
//! nobody who has not asked there. (IPv4: its scope is the link; IPv6: it is deprecated, RFC 6724, 5, rule 3. Whether somebody else has
//! it is not asked: another holder may be on its way out.) A mark in the kernel tells it from the node's own addresses, so that a restarted
//! daemon finds it again. Whoever knows the address from before is told where it is now ([`announce`]).

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use keelson_config::MacAddress;
use keelson_config::virtual_address::{LOOK, VirtualAddress};

use crate::kernel::KernelError;
use crate::links::{Address, Link, Links};
use crate::say::{Complaint, failed, say};

mod announce;
mod kernel;

/// On a node that was never told of such an address.
const IDLE: Duration = Duration::from_secs(1);
/// Frames get lost, and a switch may not know its port at once: the address is announced so often, one a second.
const ANNOUNCEMENTS: u32 = 5;
const ANNOUNCEMENT_PAUSE: Duration = Duration::from_secs(1);
/// Again and again from then on: a machine that was paused while it had the address may have answered for it since. And what somebody
/// else changed is put right.
const RESYNC: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
enum VirtualAddressError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("connecting to the kernel over netlink")]
    Connect(#[source] std::io::Error),
    #[error("the virtual address {0} is in the network of no link")]
    Nowhere(IpAddr),
    #[error("the virtual address {0} is this node's own")]
    Taken(IpAddr),
    #[error("announcing the virtual address {address}")]
    Announce { address: IpAddr, source: std::io::Error },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Keeps the address as it is asked for in the file, for as long as the process runs.
pub async fn run(path: PathBuf) {
    let kernel = match kernel::Kernel::connect() {
        Ok(kernel) => kernel,
        Err(error) => return failed(&VirtualAddressError::Connect(error)),
    };
    let mut keeper = Keeper { path, kernel, wish: None, held: Held::Unknown, complaint: Complaint::default() };
    loop {
        match keeper.look(now()).await {
            Ok(()) => keeper.complaint.passed(),
            // Tried again at the next look.
            Err(error) => keeper.complaint.of(&error),
        }
        tokio::time::sleep(keeper.pause(now())).await;
    }
}

struct Keeper {
    path: PathBuf,
    kernel: kernel::Kernel,
    /// What was asked for last. A file that cannot be read changes nothing: this has an end by itself.
    wish: Option<VirtualAddress>,
    held: Held,
    complaint: Complaint,
}

/// What the kernel has, as far as this process knows.
enum Held {
    /// An earlier daemon may have left something.
    Unknown,
    Nothing,
    Here(Holding),
}

#[derive(Debug, Clone, Copy)]
struct Holding {
    address: IpAddr,
    place: Place,
    /// What the kernel was told.
    until_milliseconds: Option<u64>,
    announcements: u32,
    next: Duration,
}

/// A link that the address can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub link: u32,
    pub mac: MacAddress,
}

impl Keeper {
    async fn look(&mut self, now: Duration) -> Result<(), VirtualAddressError> {
        let read = VirtualAddress::read(&self.path);
        let read = read.map_err(|source| VirtualAddressError::Read { path: self.path.clone(), source });
        if let Ok(Some(wish)) = read {
            self.wish = Some(wish);
        }
        self.settle(now).await?;
        read.map(drop)
    }

    async fn settle(&mut self, now: Duration) -> Result<(), VirtualAddressError> {
        let Some((wish, left)) = self.wish.and_then(|wish| Some((wish, wish.left(now)?))) else {
            return self.release().await;
        };
        match self.held {
            Held::Here(holding) if holding.address == wish.address && now < holding.next => {
                self.prolong(wish, left).await
            }
            Held::Here(holding) if holding.address != wish.address => {
                self.release().await?;
                self.take(wish, left, now).await
            }
            Held::Here(_) | Held::Nothing | Held::Unknown => self.take(wish, left, now).await,
        }
    }

    /// The kernel's own deadline follows the one that was said.
    async fn prolong(&mut self, wish: VirtualAddress, left: Duration) -> Result<(), VirtualAddressError> {
        let Held::Here(holding) = &mut self.held else { return Ok(()) };
        if holding.until_milliseconds != wish.until_milliseconds {
            let added = self.kernel.add(holding.place.link, wish.address, left).await;
            holding.until_milliseconds = wish.until_milliseconds;
            if let Err(error) = added {
                self.held = Held::Unknown;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Puts the address where it belongs, if it is not there already, and announces it.
    async fn take(&mut self, wish: VirtualAddress, left: Duration, now: Duration) -> Result<(), VirtualAddressError> {
        let before = match self.held {
            Held::Here(holding) => Some(holding),
            Held::Nothing | Held::Unknown => None,
        };
        self.held = Held::Unknown;
        let links = self.kernel.links().await?;
        if links.iter().flat_map(|link| &link.addresses).any(|own| own.net.addr() == wish.address && !own.is_virtual) {
            return Err(VirtualAddressError::Taken(wish.address));
        }
        let place = place(wish.address, &links).ok_or(VirtualAddressError::Nowhere(wish.address))?;
        let elsewhere = |link: &Link, net: IpNet| link.index != place.link || net.addr() != wish.address;
        self.remove(&links, elsewhere).await?;
        self.kernel.add(place.link, wish.address, left).await?;
        if before.is_none() {
            say(format_args!("the virtual address {} is on this node", wish.address));
        }
        let stayed = before.filter(|before| before.place == place);
        let announcements = stayed.map_or(0, |before| before.announcements).saturating_add(1);
        let pause = if announcements < ANNOUNCEMENTS { ANNOUNCEMENT_PAUSE } else { RESYNC };
        self.held = Held::Here(Holding {
            address: wish.address,
            place,
            until_milliseconds: wish.until_milliseconds,
            announcements,
            next: now + pause,
        });
        let announced = announce::announce(place, wish.address);
        announced.map_err(|source| VirtualAddressError::Announce { address: wish.address, source })
    }

    async fn release(&mut self) -> Result<(), VirtualAddressError> {
        let held = match self.held {
            Held::Nothing => return Ok(()),
            Held::Here(holding) => Some(holding.address),
            Held::Unknown => None,
        };
        let links = self.kernel.links().await?;
        let removed = self.remove(&links, |_, _| true).await?;
        self.held = Held::Nothing;
        // The kernel may have been faster.
        if let Some(address) = held.or(removed) {
            say(format_args!("the virtual address {address} has left this node"));
        }
        Ok(())
    }

    /// Says which address it was.
    async fn remove(
        &self,
        links: &Links,
        chosen: impl Fn(&Link, IpNet) -> bool,
    ) -> Result<Option<IpAddr>, VirtualAddressError> {
        let mut removed = None;
        for link in links.iter() {
            for Address { net, .. } in link.addresses.iter().filter(|address| address.is_virtual) {
                if chosen(link, *net) {
                    self.kernel.delete(link.index, *net).await?;
                    removed = Some(net.addr());
                }
            }
        }
        Ok(removed)
    }

    fn pause(&self, now: Duration) -> Duration {
        match self.wish {
            None => IDLE,
            // Gone at the moment that was said.
            Some(wish) => wish.left(now).map_or(LOOK, |left| left.min(LOOK)),
        }
    }
}

/// The link with the smallest network that the address is of. What pods hang on has no such network: the configuration refuses an address
/// of theirs.
pub fn place(address: IpAddr, links: &Links) -> Option<Place> {
    let of_its_network = |own: &&Address| {
        !own.is_virtual && own.net.prefix_len() < own.net.max_prefix_len() && own.net.contains(&address)
    };
    let fits = |link: &Link| {
        let length = link.addresses.iter().filter(of_its_network).map(|own| own.net.prefix_len()).max()?;
        let mac = link.mac.filter(|_| link.up && link.controller.is_none())?;
        Some((length, Place { link: link.index, mac }))
    };
    links.iter().filter_map(fits).max_by_key(|(length, _)| *length).map(|(_, place)| place)
}

/// Since boot, suspension included: so is the deadline.
fn now() -> Duration {
    keelson_sys::clock::since_boot()
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkLayerType;

    use super::*;
    use crate::advertisements::RouterFlags;

    fn link(index: u32, addresses: &[&str]) -> Link {
        let address = |net: &&str| Address { net: net.parse().unwrap(), unusable: false, is_virtual: false };
        Link {
            index,
            name: format!("eth{index}"),
            mac: Some(MacAddress([2, 0, 0, 0, 0, u8::try_from(index).unwrap()])),
            mtu: 1500,
            up: true,
            carrier: true,
            layer: LinkLayerType::Ether,
            kind: None,
            controller: None,
            addresses: addresses.iter().map(address).collect(),
            routers: RouterFlags::default(),
        }
    }

    fn chosen(address: &str, all: impl IntoIterator<Item = Link>) -> Option<u32> {
        let mut links = Links::default();
        all.into_iter().for_each(|link| links.insert(link));
        place(address.parse().unwrap(), &links).map(|place| place.link)
    }

    #[test]
    fn address_belongs_on_the_link_whose_network_it_is_of() {
        let links = || [link(2, &["10.0.0.5/8"]), link(3, &["10.9.0.5/16", "fd00::5/64"]), link(4, &["10.9.0.7/32"])];
        assert_eq!(chosen("10.9.0.7", links()), Some(3), "the smaller network, and no single address");
        assert_eq!(chosen("10.8.0.7", links()), Some(2));
        assert_eq!(chosen("fd00::7", links()), Some(3));
        assert_eq!(chosen("192.0.2.7", links()), None);
        assert_eq!(chosen("fd01::7", links()), None);
    }

    #[test]
    fn a_link_that_is_down_or_a_part_of_another_has_no_place() {
        let down = Link { up: false, ..link(2, &["10.9.0.5/16"]) };
        let part = Link { controller: Some(9), ..link(3, &["10.9.0.6/16"]) };
        let nameless = Link { mac: None, ..link(4, &["10.9.0.7/16"]) };
        assert_eq!(chosen("10.9.0.9", [down, part, nameless]), None);
    }
}
