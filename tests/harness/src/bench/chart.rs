//! The boot as a picture: a bar from each milestone to the next, and each process's processor time below.

use std::fmt::Write;

use super::{MILESTONES, Run};

const WIDTH: f64 = 900.0;
const LABELS: f64 = 190.0;
const ROW: f64 = 22.0;
const COLOURS: [&str; 7] = ["#577590", "#43aa8b", "#90be6d", "#f9c74f", "#f8961e", "#f3722c", "#f94144"];

/// An SVG document.
pub fn boot_chart(run: &Run) -> String {
    let times = run.milestones.values();
    let end = times.last().copied().unwrap_or(1.0).max(0.001);
    let scale = (WIDTH - LABELS - 60.0) / end;
    let mut rows = String::new();
    let mut y = 40.0;
    let mut start = 0.0;
    for ((&(_, name), time), colour) in MILESTONES.iter().zip(times).zip(COLOURS) {
        bar(&mut rows, name, y, (start, time - start), scale, colour, &format!("{time:.1} s"));
        start = time;
        y += ROW;
    }
    y += ROW;
    text(&mut rows, 10.0, y + 14.0, "processor seconds until then, in the guest");
    y += ROW;
    let mut processes: Vec<(&str, f64)> =
        run.processes.iter().filter_map(|process| Some((process.name.as_str(), process.cpu_seconds?))).collect();
    processes.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (name, seconds) in processes {
        bar(&mut rows, name, y, (0.0, seconds), scale, "#8d99ae", &format!("{seconds:.1} s"));
        y += ROW;
    }
    let height = y + 20.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">Boot to a Ready node, seconds from QEMU's start</text>\n{rows}</svg>\n"
    )
}

fn bar(rows: &mut String, name: &str, y: f64, (start, length): (f64, f64), scale: f64, colour: &str, note: &str) {
    text(rows, 10.0, y + 14.0, name);
    let x = LABELS + start * scale;
    let width = (length * scale).max(1.0);
    // Writing to a String cannot fail.
    let _ = writeln!(
        rows,
        "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        y + 2.0,
        ROW - 6.0
    );
    text(rows, x + width + 5.0, y + 14.0, note);
}

fn text(rows: &mut String, x: f64, y: f64, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(rows, "<text x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Milestones, Process};

    #[test]
    fn draws_a_bar_for_each_milestone_and_process() {
        let process = |name: &str, cpu_seconds| Process {
            name: name.to_owned(),
            resident_bytes: None,
            anonymous_bytes: None,
            cpu_seconds,
        };
        let run = Run {
            milestones: Milestones {
                kernel: 1.0,
                init: 2.0,
                network: 3.0,
                store: 4.0,
                api_server: 30.0,
                ready: 31.0,
                dns: 50.0,
            },
            init_to_api_server: None,
            processes: vec![process("store", Some(2.0)), process("<odd>", Some(1.0)), process("unknown", None)],
            qemu_cpu_seconds: 0.0,
            idle_cores: None,
        };
        let svg = boot_chart(&run);
        assert_eq!(svg.matches("<rect x=").count(), 9);
        assert!(svg.contains("&lt;odd>") && svg.contains("50.0 s"), "{svg}");
    }
}
