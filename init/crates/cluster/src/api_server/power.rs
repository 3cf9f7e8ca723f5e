//! Reboot and power-off: PID 1 is asked, and carries them out in order.

use keelson_api::{PowerAccepted, PowerRequest};

use super::{
    respond::Refusal,
    router::Context,
    views::{boot_id, control_refusal},
};

/// The history of boots keeps the reason.
const REASON_BYTES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    Reboot,
    PowerOff,
}

pub async fn order(
    context: &Context,
    order: Order,
    request: &PowerRequest,
    operator: &str,
) -> Result<PowerAccepted, Refusal> {
    let reason = reason(request, operator)?;
    let boot_id = boot_id(&context.node);
    let asked = context.node.control(move |mut client| match order {
        Order::Reboot => client.reboot(&reason),
        Order::PowerOff => client.power_off(&reason),
    });
    asked.await.map_err(|error| control_refusal(&error))?;
    context.node.status.shutting_down();
    Ok(PowerAccepted { boot_id })
}

fn reason(request: &PowerRequest, operator: &str) -> Result<String, Refusal> {
    if request.reason.len() > REASON_BYTES_MAX {
        return Err(Refusal::invalid("reason", format!("the reason is longer than {REASON_BYTES_MAX} bytes")));
    }
    // It is shown on the console.
    if request.reason.chars().any(char::is_control) {
        return Err(Refusal::invalid("reason", "the reason holds a control character"));
    }
    if request.reason.is_empty() {
        return Ok(format!("asked for by {operator}"));
    }
    Ok(format!("asked for by {operator}: {}", request.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_who_asked() {
        let reason_of = |text: &str| reason(&PowerRequest { reason: text.to_owned() }, "ann");
        assert_eq!(reason_of(""), Ok("asked for by ann".to_owned()));
        assert_eq!(reason_of("new memory"), Ok("asked for by ann: new memory".to_owned()));
        for bad in ["a\x1b[2J", "a\nb", &"x".repeat(257)] {
            assert_eq!(reason_of(bad).expect_err("refused").body.field.as_deref(), Some("reason"));
        }
    }
}
