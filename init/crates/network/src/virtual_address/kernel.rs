//! The address in the kernel, with a life of its own there.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressScope, CacheInfo};
use rtnetlink::Handle;

use crate::kernel::{self, KernelError, delete_address, to};
use crate::links::{Links, VIRTUAL};

pub(super) struct Kernel {
    handle: Handle,
}

impl Kernel {
    pub(super) fn connect() -> io::Result<Self> {
        Ok(Self { handle: kernel::connect()? })
    }

    pub(super) async fn links(&self) -> Result<Links, KernelError> {
        kernel::links(&self.handle).await
    }

    /// Adds the address, or gives it another life. The kernel counts whole seconds, and takes none for an error.
    pub(super) async fn add(&self, link: u32, address: IpAddr, life: Duration) -> Result<(), KernelError> {
        let net = IpNet::from(address);
        let mut request = self.handle.address().add(link, address, net.prefix_len()).replace();
        let message = request.message_mut();
        let mut validity = CacheInfo::default();
        validity.ifa_valid = u32::try_from(life.as_secs()).unwrap_or(u32::MAX - 1).clamp(1, u32::MAX - 1);
        // Never preferred: what this node sends of its own accord has its own addresses.
        validity.ifa_preferred = 0;
        message.attributes.push(AddressAttribute::CacheInfo(validity));
        message.attributes.push(AddressAttribute::Protocol(VIRTUAL));
        match address {
            IpAddr::V4(_) => message.header.scope = AddressScope::Link,
            IpAddr::V6(_) => {
                let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
                message.attributes.push(AddressAttribute::Flags(flags));
            }
        }
        request.execute().await.map_err(to(&format!("add the virtual address {address}")))
    }

    pub(super) async fn delete(&self, link: u32, net: IpNet) -> Result<(), KernelError> {
        delete_address(&self.handle, link, net).await
    }
}
