//! Tables, the summary, and the JSON file.

use std::fmt::Write;

use serde_json::json;

use crate::Result;
use crate::cell::{Cell, Op, Set};
use crate::contenders::{Contender, Role};
use crate::timing::{Figures, median};

/// What the tables mean.
pub(crate) const LEGEND: &str = "\
GB/s of data bytes (memcpy: of copied bytes), the median of the rounds. 8x4K: 8 data blocks of 4 KiB.
limit: the best of the loops that only load and store the same blocks, with xor.
/peer, /limit: this crate over the best of them, the median of the rounds' ratios; more than 1 is ahead.
hot: one stripe over and over. l3: 8 MiB of stripes. dram: 1 GiB, our results stored past the caches.";

/// The figures of one contender.
struct Entry {
    name: String,
    role: Role,
    /// GB/s by round.
    rounds: Vec<f64>,
    median: f64,
    /// The median over rounds of this crate's figure over this one.
    ours_over: f64,
}

/// All figures of one cell.
struct Row {
    op: Op,
    set: Set,
    n: usize,
    len: usize,
    entries: Vec<Entry>,
}

impl Row {
    /// The entry of a role with the best median.
    fn best(&self, role: Role) -> Option<&Entry> {
        let of_role = self.entries.iter().filter(|entry| entry.role == role);
        of_role.max_by(|a, b| a.median.total_cmp(&b.median))
    }

    fn named(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    fn cell(&self) -> String {
        format!("{}x{}K", self.n, self.len >> 10)
    }
}

/// Everything that was measured, in the order of measurement.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, cell: &Cell<'_>, contenders: &[Contender<'_>], figures: Figures) {
        let ours = contenders.iter().position(|contender| contender.role == Role::Ours);
        let ours = ours.and_then(|index| figures.get(index)).cloned().unwrap_or_default();
        let entry = |(contender, rounds): (&Contender<'_>, Vec<f64>)| {
            let ratios: Vec<f64> = ours.iter().zip(&rounds).map(|(ours, this)| ours / this).collect();
            Entry {
                name: contender.name.clone(),
                role: contender.role,
                median: median(&rounds),
                ours_over: median(&ratios),
                rounds,
            }
        };
        let entries = contenders.iter().zip(figures).map(entry).collect();
        let Cell { op, n, len, set, .. } = *cell;
        self.rows.push(Row { op, set, n, len, entries });
    }

    fn rows_of(&self, op: Op, set: Set) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.op == op && row.set == set).collect()
    }

    /// GB/s by cell and contender; of the limit loops only the best.
    pub(crate) fn print_table(&self, op: Op, set: Set) {
        let rows = self.rows_of(op, set);
        let Some(first) = rows.first() else { return };
        let columns: Vec<&str> =
            first.entries.iter().filter(|e| e.role != Role::Limit).map(|e| e.name.as_str()).collect();
        let mut table = vec![vec!["cell".to_owned()]];
        table[0].extend(columns.iter().map(|name| (*name).to_owned()));
        table[0].extend(["limit", "/peer", "best peer", "/limit", "best limit loop"].map(String::from));
        for row in rows {
            let mut line = vec![row.cell()];
            line.extend(columns.iter().map(|name| figure(row.named(name).map(|e| e.median), 1)));
            let (peer, limit) = (row.best(Role::Peer), row.best(Role::Limit));
            line.push(figure(limit.map(|e| e.median), 1));
            for best in [peer, limit] {
                line.push(figure(best.map(|e| e.ours_over), 2));
                line.push(best.map_or_else(String::new, |e| e.name.clone()));
            }
            table.push(line);
        }
        println!("\n{}, {}: GB/s", op.name(), set.name());
        print!("{}", aligned(&table));
    }

    /// This crate over the best peer, over each peer, and over the limit.
    pub(crate) fn print_summary(&self) {
        println!("\nthis crate over the best peer of each cell, and over the limit (geometric means)");
        let heads = ["op", "set", "/peer", "worst", "in", "/limit", "worst", "in"];
        let mut table = vec![heads.map(String::from).to_vec()];
        let mut peers = String::new();
        for (op, set) in self.groups() {
            let rows = self.rows_of(op, set);
            let mut line = vec![op.name().to_owned(), set.name().to_owned()];
            for role in [Role::Peer, Role::Limit] {
                let ratios = rows.iter().filter_map(|row| Some((row.best(role)?.ours_over, row.cell())));
                let ratios: Vec<_> = ratios.collect();
                let worst = ratios.iter().min_by(|a, b| a.0.total_cmp(&b.0));
                line.push(figure(geometric_mean(ratios.iter().map(|(ratio, _)| *ratio)), 2));
                line.push(figure(worst.map(|(ratio, _)| *ratio), 2));
                line.push(worst.map_or_else(String::new, |(_, cell)| cell.clone()));
            }
            table.push(line);
            peers += &each_peer(op, set, &rows);
        }
        print!("{}", aligned(&table));
        println!("\nthis crate over each other (geometric means)\n{peers}");
    }

    fn groups(&self) -> Vec<(Op, Set)> {
        let mut groups: Vec<(Op, Set)> = Vec::new();
        for row in &self.rows {
            if !groups.contains(&(row.op, row.set)) {
                groups.push((row.op, row.set));
            }
        }
        groups
    }

    /// Writes all figures of all rounds.
    pub(crate) fn write_json(&self, path: &str) -> Result<()> {
        let cells: Vec<_> = self.rows.iter().map(json_of).collect();
        let text = json!({ "unit": "GB/s of data", "cells": cells }).to_string();
        std::fs::write(path, text).map_err(|error| format!("{path} cannot be written: {error}"))
    }
}

fn json_of(row: &Row) -> serde_json::Value {
    let summary = |role| {
        row.best(role)
            .map(|entry| json!({ "name": entry.name, "gbps": entry.median, "ours_over": entry.ours_over }))
    };
    let contenders: Vec<_> = row
        .entries
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name,
                "role": format!("{:?}", entry.role).to_lowercase(),
                "gbps": entry.median,
                "ours_over": entry.ours_over,
                "rounds": entry.rounds,
            })
        })
        .collect();
    json!({
        "op": row.op.name(),
        "set": row.set.name(),
        "n": row.n,
        "len": row.len,
        "best_peer": summary(Role::Peer),
        "limit": summary(Role::Limit),
        "contenders": contenders,
    })
}

/// A line of this crate's mean ratios to all others that compute.
fn each_peer(op: Op, set: Set, rows: &[&Row]) -> String {
    let mut line = format!("{:<9} {:<4}", op.name(), set.name());
    for entry in rows.first().iter().flat_map(|row| &row.entries) {
        if matches!(entry.role, Role::Peer | Role::Other) {
            let ratios = rows.iter().filter_map(|row| Some(row.named(&entry.name)?.ours_over));
            let _ = write!(line, "  {} {}", entry.name, figure(geometric_mean(ratios), 2));
        }
    }
    line + "\n"
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = values.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Columns of equal width, numbers to the right.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| table.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in table {
        for (item, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{item:>width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
