//! The service of images: a request → one call on the store, on a thread that may block.

use std::cell::Cell;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use protobuf::MessageField;
use tokio::sync::{mpsc, watch};
use ttrpc::Result as Reply;
use ttrpc::r#async::{SSSender, ServerStream, ServerStreamSender, TtrpcContext};

use super::detached;
use crate::chunks::{Incoming, Outgoing, answer};
use crate::container::{Supervisor, blocking, text_of, time_of};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::image::{Image, Reference};
use crate::protos::images as api;
use crate::protos::images_ttrpc::Images;
use crate::protos::parts::Part;
use crate::records::{Change, event};
use crate::requests::{Requests, attended};
use crate::store::{self, ImportOptions, Refusal, Removed, Source, Store};
use crate::wanted::Wish;

/// How far an archive that goes out may be ahead of its reader.
const WINDOW: u64 = 1 << 20;

pub(super) struct Service(pub(super) Arc<Supervisor>);

impl Service {
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.0.store.clone();
        detached(blocking(move || call(&store).map_err(|error| of(&error)))).await
    }

    async fn tell(&self, action: &str, names: impl IntoIterator<Item = String>) {
        let mut change = Change::default();
        for name in names {
            change
                .events
                .push(event("image", action, &name, &[("name", &name)]));
        }
        if !change.events.is_empty() {
            self.0.tell(change).await;
        }
    }
}

#[async_trait]
impl Images for Service {
    async fn import(
        &self,
        _: &TtrpcContext,
        stream: ServerStream<api::ImportImagesResponse, api::ImportImagesRequest>,
    ) -> Reply<()> {
        let _awaited = self.0.ending.subscribe();
        Ok(import(&self.0, stream).await?)
    }

    async fn export(
        &self,
        _: &TtrpcContext,
        stream: ServerStream<api::ExportImagesResponse, api::ExportImagesRequest>,
    ) -> Reply<()> {
        let _awaited = self.0.ending.subscribe();
        Ok(export(self.0.store.clone(), stream).await?)
    }

    async fn list(
        &self,
        _: &TtrpcContext,
        _: api::ListImagesRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let images = self.call(Store::images).await?;
        let response = api::ListImagesResponse {
            images: images.iter().map(shown).collect(),
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn inspect(
        &self,
        _: &TtrpcContext,
        request: api::InspectImageRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let image = self.call(move |store| store.image(&request.image)).await?;
        let response = api::InspectImageResponse {
            image: MessageField::some(shown(&image)),
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn tag(
        &self,
        _: &TtrpcContext,
        request: api::TagImageRequest,
    ) -> Reply<api::TagImageResponse> {
        let name = reference(&request.name)?;
        let told = name.familiar();
        self.call(move |store| store.tag(&request.image, &name))
            .await?;
        self.tell("tag", [told]).await;
        Ok(api::TagImageResponse::default())
    }

    async fn remove(
        &self,
        _: &TtrpcContext,
        request: api::RemoveImageRequest,
    ) -> Reply<api::RemoveImageResponse> {
        let supervisor = self.0.clone();
        let runs = move |id: &str| supervisor.find(id).is_ok_and(|it| it.is_active());
        let removed = self
            .call(move |store| store.remove(&request.image, request.force, runs))
            .await?;
        let (untagged, deleted) = names(&removed);
        self.tell("untag", untagged.clone()).await;
        self.tell("delete", deleted.clone()).await;
        Ok(api::RemoveImageResponse {
            untagged,
            deleted,
            ..Default::default()
        })
    }

    async fn prune(
        &self,
        _: &TtrpcContext,
        request: api::PruneImagesRequest,
    ) -> Reply<api::PruneImagesResponse> {
        let removed = self
            .call(move |store| store.prune(request.all, &request.only))
            .await?;
        let (_, deleted) = names(&removed);
        self.tell("delete", deleted.clone()).await;
        Ok(api::PruneImagesResponse {
            deleted,
            reclaimed: removed.reclaimed,
            ..Default::default()
        })
    }

    async fn history(
        &self,
        _: &TtrpcContext,
        request: api::HistoryRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let steps = self
            .call(move |store| store.history(&request.image))
            .await?;
        let entry = |step: crate::image::Step| {
            let (created_at, created) = created(step.created);
            api::history_response::Entry {
                created_at,
                created_by: step.created_by,
                comment: step.comment,
                empty_layer: step.layer.is_none(),
                size: step.size,
                created,
                ..Default::default()
            }
        };
        let response = api::HistoryResponse {
            entries: steps.into_iter().map(entry).collect(),
            ..Default::default()
        };
        Ok(answer(&stream, &response).await?)
    }

    async fn verify(
        &self,
        _: &TtrpcContext,
        request: api::VerifyImagesRequest,
        stream: ServerStreamSender<Part>,
    ) -> Reply<()> {
        let verified = attended(&stream, self.verified(request, &stream));
        Ok(self.0.until_the_end(verified).await?)
    }
}

impl Service {
    /// As long as the client is there.
    async fn verified(
        &self,
        request: api::VerifyImagesRequest,
        stream: &ServerStreamSender<Part>,
    ) -> Result<()> {
        let wish = Wish::default();
        let wanted = wish.wanted();
        let verdict = self
            .call(move |store| store.verify(&request.images, request.repair, &wanted))
            .await?;
        let fault = |damage: store::Damage| api::verify_images_response::Fault {
            object: damage.object.to_string(),
            what: damage.what,
            repaired: damage.repaired,
            ..Default::default()
        };
        let response = api::VerifyImagesResponse {
            faults: verdict.damage.into_iter().map(fault).collect(),
            checked: verdict.checked,
            ..Default::default()
        };
        answer(stream, &response).await
    }
}

/// What the store refuses has a kind, what fails has none.
pub(super) fn of(error: &anyhow::Error) -> Fault {
    let kind = error
        .downcast_ref::<Refusal>()
        .map(|refusal| match refusal.kind {
            store::Kind::NotFound => Kind::NotFound,
            store::Kind::InUse => Kind::Precondition,
            store::Kind::Invalid | store::Kind::Ambiguous => Kind::Invalid,
        });
    Fault::of(kind.unwrap_or(Kind::Unknown), format!("{error:#}"))
}

fn reference(name: &str) -> Result<Reference> {
    Reference::given(name).map_err(|error| Fault::new(format!("{error:#}")))
}

fn names(removed: &Removed) -> (Vec<String>, Vec<String>) {
    (
        removed.untagged.iter().map(Reference::familiar).collect(),
        removed.deleted.iter().map(ToString::to_string).collect(),
    )
}

fn shown(image: &Image) -> api::Image {
    let (created_at, created) = created(image.created.clone());
    api::Image {
        id: image.id.to_string(),
        names: image.names.iter().map(Reference::familiar).collect(),
        digest: image.manifest.to_string(),
        layers: image.layers.iter().map(ToString::to_string).collect(),
        size: image.size,
        created_at,
        config: image.said.to_string(),
        created,
        ..Default::default()
    }
}

/// As a number and as it is said; the first is 0 if that is not known. An image that can be made again bit by bit often says 1970.
fn created(said: Option<String>) -> (i64, String) {
    let known = said.filter(|text| !text.starts_with("0001-01-01"));
    match known.and_then(|text| Some((time_of(&text)?, text))) {
        Some((0, text)) => (1, text),
        Some(known) => known,
        None => (0, text_of(0)),
    }
}

enum Told {
    Progress(store::Progress),
    Taken(u64),
}

async fn import(
    supervisor: &Arc<Supervisor>,
    stream: ServerStream<api::ImportImagesResponse, api::ImportImagesRequest>,
) -> Result<()> {
    let (sender, receiver) = stream.split();
    let requests = Requests::new(receiver);
    attended(&sender.clone(), take_in(supervisor, sender, requests)).await
}

async fn take_in(
    supervisor: &Arc<Supervisor>,
    sender: SSSender<api::ImportImagesResponse>,
    mut requests: Requests<api::ImportImagesRequest>,
) -> Result<()> {
    let first = requests.next().await?;
    let Some(api::import_images_request::Of::Source(source)) = first.and_then(|request| request.of)
    else {
        return Err(Fault::new("the first request does not say what to import"));
    };
    let name = if source.name.is_empty() {
        None
    } else {
        Some(reference(&source.name)?)
    };
    // Until the end of this; the client may leave before.
    let wish = Wish::default();
    let options = ImportOptions {
        wanted: wish.wanted(),
        name,
        images_only: source.images_only,
        changes: source.changes,
        message: source.message,
        ..Default::default()
    };
    let (to_reader, chunks) = mpsc::channel(4);
    let (telling, told) = mpsc::unbounded_channel();
    let service = Service(supervisor.clone());
    // What is in the store is told, too, also if the client leaves in between.
    let work = tokio::spawn(async move {
        let read =
            move |store: &Store| read_archive(store, &source.path, &options, chunks, telling);
        let images = service.call(read).await?;
        service.tell("import", images.iter().map(familiar)).await;
        Ok::<_, Fault>(images)
    });
    tokio::select! {
        () = pass_on(&mut requests, to_reader) => {}
        told = tell(&sender, told) => told?,
    }
    for image in work.await.tried(|| "import".into())?? {
        let image = api::Image {
            config: String::new(),
            ..shown(&image)
        };
        let image = api::import_images_response::Of::Image(image);
        send(&sender, image).await?;
    }
    Ok(())
}

fn familiar(image: &Image) -> String {
    let name = image.names.first();
    name.map_or_else(|| image.id.to_string(), Reference::familiar)
}

/// Gives the archive to who reads it, and its end, if the client says that this is one. Never comes back.
async fn pass_on(
    requests: &mut Requests<api::ImportImagesRequest>,
    to_reader: mpsc::Sender<Option<Vec<u8>>>,
) {
    while let Ok(Some(request)) = requests.next().await {
        let data = match request.of {
            Some(api::import_images_request::Of::Data(data)) => Some(data),
            Some(api::import_images_request::Of::End(_)) => None,
            _ => break,
        };
        let last = data.is_none();
        if to_reader.send(data).await.is_err() || last {
            break;
        }
    }
    drop(to_reader);
    std::future::pending().await
}

/// On a thread that may block.
fn read_archive(
    store: &Store,
    path: &str,
    options: &ImportOptions,
    chunks: mpsc::Receiver<Option<Vec<u8>>>,
    telling: mpsc::UnboundedSender<Told>,
) -> anyhow::Result<Vec<Image>> {
    // One that does not listen any more has left.
    let taken = telling.clone();
    let mut progress = |progress| drop(telling.send(Told::Progress(progress)));
    if path.is_empty() {
        let incoming = Incoming::new(chunks, move |bytes| drop(taken.send(Told::Taken(bytes))));
        return read_through(store, incoming, 0, options, &mut progress);
    }
    let path = Path::new(path);
    if path.is_dir() {
        return store.import(Source::Directory(path), options, &mut progress);
    }
    let opened = std::fs::File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) =
        opened.map_err(|error| anyhow::anyhow!("open {}: {error}", path.display()))?;
    // What is no regular file does not say.
    let size = if metadata.is_file() {
        metadata.len()
    } else {
        0
    };
    read_through(store, file, size, options, &mut progress)
}

/// Of an archive, progress is how much of it has been read, packed as it may be.
fn read_through(
    store: &Store,
    mut from: impl Read,
    size: u64,
    options: &ImportOptions,
    tell: &mut dyn FnMut(store::Progress),
) -> anyhow::Result<Vec<Image>> {
    let read = Cell::new(0);
    let mut counted = Counted(&mut from, &read);
    let mut progress = |progress: store::Progress| match progress.layer {
        Some(_) => tell(progress),
        None => tell(store::Progress {
            done: read.get(),
            total: size,
            ..progress
        }),
    };
    store.import(Source::Archive(&mut counted), options, &mut progress)
}

struct Counted<'a, R>(&'a mut R, &'a Cell<u64>);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.read(buffer)?;
        self.1.set(self.1.get() + length as u64);
        Ok(length)
    }
}

/// Until the thread that reads has ended.
async fn tell(
    sender: &SSSender<api::ImportImagesResponse>,
    mut told: mpsc::UnboundedReceiver<Told>,
) -> Result<()> {
    while let Some(told) = told.recv().await {
        let of = match told {
            Told::Taken(bytes) => api::import_images_response::Of::Taken(bytes),
            Told::Progress(progress) => {
                api::import_images_response::Of::Progress(progress_of(&progress))
            }
        };
        send(sender, of).await?;
    }
    Ok(())
}

fn progress_of(progress: &store::Progress) -> api::import_images_response::Progress {
    api::import_images_response::Progress {
        item: progress
            .layer
            .map(|layer| layer.to_string())
            .unwrap_or_default(),
        done: progress.done,
        total: progress.total,
        ..Default::default()
    }
}

async fn send(
    sender: &SSSender<api::ImportImagesResponse>,
    of: api::import_images_response::Of,
) -> Result<()> {
    let response = api::ImportImagesResponse {
        of: Some(of),
        ..Default::default()
    };
    Ok(sender.send(&response).await?)
}

async fn export(
    store: Arc<Store>,
    stream: ServerStream<api::ExportImagesResponse, api::ExportImagesRequest>,
) -> Result<()> {
    let (sender, receiver) = stream.split();
    let requests = Requests::new(receiver);
    attended(&sender.clone(), give_out(store, sender, requests)).await
}

async fn give_out(
    store: Arc<Store>,
    sender: SSSender<api::ExportImagesResponse>,
    mut requests: Requests<api::ExportImagesRequest>,
) -> Result<()> {
    let first = requests.next().await?;
    let Some(api::export_images_request::Of::Names(names)) = first.and_then(|request| request.of)
    else {
        return Err(Fault::new("the first request does not say what to export"));
    };
    let (chunks, mut next) = mpsc::channel(4);
    let work = tokio::task::spawn_blocking(move || {
        let mut outgoing = Outgoing::new(chunks);
        store.export(&names.names, &mut outgoing)?;
        Ok::<_, anyhow::Error>(outgoing.flush()?)
    });
    let (noticing, mut taken) = watch::channel(0);
    let sending = async {
        let mut sent = 0;
        while let Some(data) = next.recv().await {
            let least = u64::saturating_sub(sent, WINDOW);
            taken
                .wait_for(|taken| *taken >= least)
                .await
                .tried(|| "the client has left".into())?;
            sent += data.len() as u64;
            sender
                .send(&api::ExportImagesResponse {
                    data,
                    ..Default::default()
                })
                .await?;
        }
        Ok::<_, Fault>(())
    };
    tokio::select! {
        sent = sending => sent?,
        () = acknowledged(&mut requests, &noticing) => {}
    }
    work.await
        .tried(|| "export".into())?
        .map_err(|error| of(&error))
}

/// Notes what the client has taken; never comes back.
async fn acknowledged(
    requests: &mut Requests<api::ExportImagesRequest>,
    noticing: &watch::Sender<u64>,
) {
    while let Ok(Some(request)) = requests.next().await {
        if let Some(api::export_images_request::Of::Taken(bytes)) = request.of {
            noticing.send_modify(|taken| *taken = bytes);
        }
    }
    std::future::pending().await
}
