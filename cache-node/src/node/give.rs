//! What this node gives to the others of its cache: `forebay_peer::Blocks` over its data sets.
//! Knows data sets by the names that other nodes use. Does not know connections or certificates: who gets here has proved itself.
//! Invariant: nothing is given of a data set that this node doesn't serve.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_manifest::Manifest;
use forebay_manifest::listing::handover::Place;
use forebay_peer::{
    BlockRef, Blocks, Body, Coverage, DatasetId, FreeRequest, Freed, Given, HoldsRequest, ListingHead, ListingRequest, ListingState,
    ManifestHead, ManifestRequest, Offered, ReadRequest, Refusal, StoreRequest,
};
use forebay_source::{Key, Version};
use futures::StreamExt;
use tokio::io::AsyncReadExt;

use super::{Dataset, Node};
use crate::aside;
use crate::fill::{Asked, FileObject};
use crate::rules::Placement;

/// Of a manifest, read at once.
const PIECE_BYTES: usize = 512 << 10;

pub(super) struct Gives(pub(super) Weak<Node>);

impl Gives {
    fn dataset(&self, id: &DatasetId) -> Result<(Arc<Node>, Arc<Dataset>), Refusal> {
        let node = self.0.upgrade().ok_or(Refusal::Busy)?;
        let dataset = node.datasets.read().iter().find(|dataset| dataset.fs.name() == id.as_str()).cloned();
        dataset.map(|dataset| (node, dataset)).ok_or(Refusal::UnknownDataset)
    }

    fn file(&self, block: &BlockRef) -> Result<(Arc<Node>, Arc<FileObject>), Refusal> {
        let (node, dataset) = self.dataset(&block.dataset)?;
        let file = dataset.fs.file_of_key(block.object, Key(block.key.clone()), Version(block.version.clone()));
        file.map(|file| (node, file)).ok_or_else(|| Refusal::Malformed("no source of the data set has such an object".to_owned()))
    }
}

#[async_trait]
impl Blocks for Gives {
    async fn read(&self, request: ReadRequest) -> Result<Given, Refusal> {
        let (node, file) = self.file(&request.block)?;
        if file.placement == Placement::Pass {
            // By another spec than the caller's: what is never cached each node reads for itself.
            return Err(Refusal::NotMine);
        }
        let asked = Asked { want: request.want, background: request.background, may_go_elsewhere: request.elsewhere };
        node.fill.give(file, request.block.index, request.extent, asked).await
    }

    async fn store(&self, request: StoreRequest, mut body: Body) -> Result<bool, Refusal> {
        let StoreRequest { block, by_demand } = request;
        let (node, file) = self.file(&block)?;
        let extent = node.block_size.extent(block.index, block.object.size);
        let Some(extent) = extent.filter(|_| file.placement != Placement::Pass) else { return Ok(false) };
        if node.store.contains(&block.object, block.index) {
            return Ok(true);
        }
        if by_demand && !node.store.has_room_beside(file.origin.slot, &block.object, extent.len()) {
            return Ok(false);
        }
        // Before the first byte is read: who gives waits until there is memory.
        let _memory = node.fill.memory_to_take(extent.len()).await;
        let mut bytes = Vec::with_capacity(usize::try_from(extent.len()).unwrap_or(0));
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let is_kept = bytes.len() as u64 == extent.len() && node.fill.take(&file, block.index, &bytes).await;
        if is_kept && by_demand {
            node.fill.lent(&file, block.index);
        }
        Ok(is_kept)
    }

    async fn manifest(&self, request: ManifestRequest) -> Result<Offered, Refusal> {
        let (_, dataset) = self.dataset(&request.dataset)?;
        let refresh = &dataset.refresh;
        refresh.heard_of(request.than);
        // Asked by one that goes by another order it would wait for a third, and that maybe for the first.
        let listed = request.refresh && refresh.leads();
        if listed {
            // How it went is in the state.
            drop(refresh.refresh_now().await);
        }
        let listing = ListingState { listed, ..refresh.state() };
        let number = |manifest: &Manifest| (manifest.summary().term, manifest.summary().sequence);
        let Some(manifest) = dataset.fs.manifest().filter(|manifest| number(manifest) > request.than) else {
            return Ok(Offered { listing, newer: None });
        };
        let (term, sequence) = number(&manifest);
        let began_ms_ago = refresh.began_ms_ago();
        let (bytes, body) = open(&manifest).await.map_err(|error| Refusal::Internal(format!("read the list of files: {error}")))?;
        Ok(Offered { listing, newer: Some((ManifestHead { term, sequence, bytes, began_ms_ago, listed }, body)) })
    }

    async fn listing(&self, request: ListingRequest) -> Result<Option<(ListingHead, Bytes)>, Refusal> {
        let (_, dataset) = self.dataset(&request.dataset)?;
        let place = Place { listing: request.listing, have: request.have };
        Ok(dataset.refresh.listing_part(request.source, place).await)
    }

    async fn free(&self, request: FreeRequest) -> Result<Freed, Refusal> {
        let (_, dataset) = self.dataset(&request.dataset)?;
        let mut freed = Freed::default();
        for path in request.paths {
            let here = dataset.free(path).await.map_err(Refusal::Internal)?;
            freed.files += here.files;
            freed.bytes += here.bytes;
        }
        Ok(freed)
    }

    async fn holds(&self, request: HoldsRequest) -> Result<Vec<bool>, Refusal> {
        let (node, _) = self.dataset(&request.dataset)?;
        let look = move || request.blocks.iter().map(|(object, index)| node.store.contains(object, *index)).collect();
        // Of files that are filling the disk may be asked.
        aside::spawn(look).await.map_err(|_| Refusal::Busy)
    }

    async fn coverage(&self, dataset: DatasetId) -> Result<Option<Coverage>, Refusal> {
        let (_, dataset) = self.dataset(&dataset)?;
        Ok(dataset.held_now().await.map(|held| held.coverage))
    }
}

/// Length and bytes of a manifest's file, which stays readable when a newer one takes its place.
async fn open(manifest: &Manifest) -> std::io::Result<(u64, Body)> {
    let file = tokio::fs::File::open(manifest.file()).await?;
    let bytes = file.metadata().await?.len();
    let pieces = futures::stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(piece)), Some(file))),
            Err(error) => Some((Err(Refusal::Internal(error.to_string())), None)),
        }
    });
    Ok((bytes, pieces.boxed()))
}
