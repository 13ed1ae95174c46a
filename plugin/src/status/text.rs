//! How data sets look on a terminal.
//! Pure.

use std::fmt::Write as _;

use forebay_api::quantity;

use super::{NodeView, PreloadView, Rates, View};

/// One line each.
pub fn table(views: &[View], with_namespace: bool) -> String {
    let live = views.iter().any(|view| view.rates.is_some());
    let mut head = vec!["NAME", "FILES", "SIZE", "CACHED", "WARM", "HIT", "PRELOAD", "STATUS"];
    if live {
        head.extend(["READ/s", "FETCHED/s"]);
    }
    if with_namespace {
        head.insert(0, "NAMESPACE");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for view in views {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let mut row = vec![
            view.name.clone(),
            view.files.map_or("-".to_owned(), |files| files.to_string()),
            or_none(&view.size),
            or_none(&view.cached),
            or_none(&view.warm),
            or_none(&view.hit),
            view.preload.as_ref().map_or("-".to_owned(), |preload| preload.state.clone()),
            if view.status.is_empty() { "-".to_owned() } else { view.status.clone() },
        ];
        if live {
            let rate = |of: fn(Rates) -> u64| view.rates.map_or("-".to_owned(), |rates| quantity::bytes(of(rates)));
            row.extend([rate(|rates| rates.store + rates.peer + rates.source), rate(|rates| rates.fetched)]);
        }
        if with_namespace {
            row.insert(0, view.namespace.clone());
        }
        rows.push(row);
    }
    columns(&rows)
}

/// Everything about one.
pub fn detail(view: &View) -> String {
    let mut text = String::new();
    let policy = view.policy.as_deref().map(|policy| format!(", cached by {policy}")).unwrap_or_default();
    let _ = writeln!(text, "{}/{}{policy}\n", view.namespace, view.name);
    text.push_str(&table(std::slice::from_ref(view), false));
    if !view.conditions.is_empty() {
        text.push('\n');
        let row = |one: &super::ConditionView| vec![one.kind.clone(), one.status.clone(), one.reason.clone(), one.message.clone()];
        text.push_str(&columns(&view.conditions.iter().map(row).collect::<Vec<_>>()));
    }
    if let Some(preload) = &view.preload {
        let _ = writeln!(text, "\npreload   {}", self::preload(preload));
    }
    for file in &view.failed_files {
        let _ = writeln!(text, "failed    {}: {}", file.path, file.reason);
    }
    if view.unreachable_keys > 0 {
        let _ = writeln!(text, "keys      {} that no path can name", view.unreachable_keys);
    }
    if !view.nodes.is_empty() {
        text.push('\n');
        text.push_str(&nodes(&view.nodes));
        if view.nodes.iter().any(|node| node.rates.is_some()) {
            text.push_str("Bytes per second: from the node's own cache, from other nodes, from the source; FETCHED is all that the node took from the source.\n");
        }
    } else if !view.least.is_empty() {
        text.push('\n');
        let mut rows = vec![vec!["NODE".to_owned(), "WARM".to_owned()]];
        rows.extend(view.least.iter().map(|share| vec![share.name.clone(), format!("{}%", share.percent)]));
        text.push_str(&columns(&rows));
    }
    for note in &view.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    text
}

fn nodes(nodes: &[NodeView]) -> String {
    let head = ["NODE", "HELD", "WANTED", "WARM", "CACHED", "HIT", "CACHE", "NODES", "SOURCE", "FETCHED", "MOUNT", "LIST", "PRELOAD"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut troubles = String::new();
    for node in nodes {
        let name = if node.is_client { format!("{} (client)", node.node) } else { node.node.clone() };
        let rate = |of: fn(Rates) -> u64| node.rates.map_or("-".to_owned(), |rates| quantity::bytes(of(rates)));
        rows.push(vec![
            name,
            quantity::bytes(node.held_bytes),
            quantity::bytes(node.wanted_bytes),
            quantity::percent(node.held_bytes, node.wanted_bytes),
            quantity::bytes(node.cached_bytes),
            node.hit_percent.map_or("-".to_owned(), |percent| format!("{percent}%")),
            rate(|rates| rates.store),
            rate(|rates| rates.peer),
            rate(|rates| rates.source),
            rate(|rates| rates.fetched),
            match &node.mount {
                Some(mount) => mount.text().to_owned(),
                None if node.mounted => "yes".to_owned(),
                None => "-".to_owned(),
            },
            if node.listing.starts_with("failed") { "failed".to_owned() } else { node.listing.clone() },
            if node.preload.is_empty() { "-".to_owned() } else { node.preload.clone() },
        ]);
        if !node.trouble.is_empty() {
            let _ = writeln!(troubles, "trouble   {}: {}", node.node, node.trouble);
        }
    }
    columns(&rows) + &troubles
}

fn preload(preload: &PreloadView) -> String {
    let bytes = match (preload.bytes, preload.bytes_total) {
        (Some(done), Some(total)) => format!("{} of {}", quantity::bytes(done), quantity::bytes(total)),
        _ => preload.told.clone(),
    };
    let mut text =
        format!("{} (revision {}): {} of {} files, {bytes}", preload.state, preload.revision, preload.files, preload.files_total);
    if let Some(rate) = preload.bytes_per_second {
        let _ = write!(text, ", {}/s", quantity::bytes(rate));
    }
    if let Some(left) = preload.seconds_left {
        let _ = write!(text, ", {} left", duration(left));
    }
    if preload.failed > 0 {
        let _ = write!(text, ", {} failed", preload.failed);
    }
    text
}

/// `2h05m`, `3m20s`, `12s`.
pub fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// `text` without what a terminal would obey: names of objects are chosen by whoever may write to a bucket.
pub fn plain(text: &str) -> String {
    let keep = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(keep).collect()
}

/// Rows in columns of their widest entry; the last is as long as it is.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}
