//! Drops copies that were lent to this node while many asked for them, and that nobody reads any more.
//! Knows whose a block is. Does not know how it came here.

use std::sync::Arc;

use forebay_wire::block::BlockId;
use forebay_wire::rule::LocalCopy;
use tokio::time::Instant;

use super::{BATCH, Row, Todo, ask, drop_copy};
use crate::fill::Fill;
use crate::peer::Neighbours;

/// As of `now`. A copy stays where one of its own nodes doesn't say that it has the block, or another node was told that it is here: it is looked at
/// again when nobody has read it for as long once more.
pub async fn cool(neighbours: &Neighbours, fill: &Arc<Fill>, now: Instant) {
    let view = neighbours.view();
    let too_much = fill.take_unread(now).into_iter().filter_map(|(file, index)| {
        let holders = view.holders(BlockId { object: file.object.id, index }, file.copies.min);
        // By a newer list it may be this node's own.
        let may_stay = holders.own || file.local_copy == LocalCopy::Always;
        (!may_stay).then_some(Row { file, index, todo: Todo::Drop { once: holders.others } })
    });
    let mut rows: Vec<Row> = too_much.collect();
    while !rows.is_empty() {
        let batch = rows.split_off(rows.len().saturating_sub(BATCH));
        let asked = ask(neighbours, &batch).await;
        for (row, asked) in batch.into_iter().zip(asked) {
            if asked.holders.len() < row.todo.nodes().len() || drop_copy(fill, &row).await != Some(true) {
                fill.lent(&row.file, row.index);
            }
        }
    }
}
