"""A decoder and workers in fake time, and an engine built from them: the real core with nothing real behind it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from model_store.labels import Label
from model_store.latency_profile import MachineProfile, StageCost
from model_store.manifest import Accuracy, Manifest, Provenance
from service.core.clock import Clock
from service.core.door import EngineSettings
from service.core.engine import Engine
from service.core.generation import Generation, ServedVariant
from service.core.instrument import Instrument
from service.core.menu import Menu
from service.core.ports import DecodedImage
from service.core.request import PIXELS_FORMAT, ImageHeader, Picture, Plan, RawPixels, RunResult
from service.errors import InvalidImage
from tests.fakes.event_loop import LoopClock
from tests.fakes.menus import MS, cpu_menu, scheduler


@dataclass(frozen=True)
class FakePixels:
    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)


@dataclass
class FakeDecoder:
    """Takes `decode_ms` for every image, all at once; b"broken" has a good header and bad pixels, b"text" neither.

    Pixels that need no decoding are taken over at once.
    """

    decode_ms: float = 1.0
    threads: int = 1000
    resolutions: list[int] = field(default_factory=list)

    def probe(self, image: Picture) -> ImageHeader:
        if isinstance(image, RawPixels):
            return ImageHeader(PIXELS_FORMAT, image.width, image.height)
        if image == b"text":
            raise InvalidImage("not an image")
        return ImageHeader("JPEG", 500, 400)

    async def decode(self, image: Picture, resolution: int, deadline_ns: int) -> DecodedImage:
        self.resolutions.append(resolution)
        if isinstance(image, RawPixels):
            return FakePixels(image.data)
        await asyncio.sleep(self.decode_ms / 1000)
        if image == b"broken":
            raise InvalidImage("the picture ends too early")
        return FakePixels(image)


@dataclass
class FakeWorkers:
    """Runs take what was planned, or what `takes_ns` says, times `slowness`.

    Classes are the image's bytes, so that answers can be told apart.
    Of 1000 classes the first byte's is the most probable; those after it have half as much each.

    A plan that holds the image b"poison" raises.
    """

    slowness: float = 1.0
    takes_ns: Callable[[Plan], float] = lambda plan: plan.latency_ns
    plans: list[Plan] = field(default_factory=list)
    busy: set[int] = field(default_factory=set)

    def start_run(
        self,
        worker: int,
        plan: Plan,
        images: Sequence[DecodedImage],
        top_k: int,
        done: Callable[[RunResult | BaseException], None],
    ) -> None:
        assert worker not in self.busy
        self.busy.add(worker)
        self.plans.append(plan)
        contents = [image.content for image in images]
        result: RunResult | BaseException
        if b"poison" in contents:
            result = RuntimeError("the run failed")
        else:
            top = tuple(tuple((content[0] + k, 0.5**k) for k in range(top_k)) for content in contents)
            rows = tuple(probabilities_of(content) for content in contents)
            result = RunResult(top, plan.latency_ns // 4, plan.latency_ns // 2, rows)

        def finish() -> None:
            self.busy.remove(worker)
            done(result)

        asyncio.get_running_loop().call_later(self.takes_ns(plan) * self.slowness / 1e9, finish)


def probabilities_of(content: bytes) -> bytes:
    """What `FakeWorkers` give every class of an image, as float32."""
    row = [0.0] * content[0] + [0.5**k for k in range(100)]
    return struct.pack("<1000f", *row, *[0.0] * (1000 - len(row)))


class RecordingInstrument(Instrument):
    """Keeps what it was told, as (event, detail) pairs."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def request_admitted(self) -> None:
        self.events.append(("admitted", None))

    def request_settled(self, classification: object) -> None:
        self.events.append(("settled", classification))

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:
        self.events.append(("failed" if admitted else "refused", type(error).__name__))

    def request_cancelled(self, waited_ns: int) -> None:
        self.events.append(("cancelled", None))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def served(menu: Menu) -> dict[str, ServedVariant]:
    """Every variant of `menu`, with class names "class 0".."class 999"."""
    labels = tuple(Label(index, f"n{index:08d}", f"class {index}") for index in range(1000))
    found = {}
    for choice in menu.choices:
        manifest = Manifest(
            schema_version=1,
            variant=choice.variant,
            accuracy=Accuracy(choice.variant.top1, None, "published", "made up for tests", None),
            provenance=Provenance("file", "test", None, "Apache-2.0", None, "0" * 64),
            opset=17,
            ir_version=8,
            parameters=int(choice.accuracy * 1000),
            flops=1,
            files={},
        )
        found[choice.variant.name] = ServedVariant(manifest, labels, routable=True)
    return found


def generation(menu: Menu, workers: FakeWorkers, version: str = "first", *, store: Menu | None = None) -> Generation:
    """A store of the variants of `store`, of which those of `menu` are loaded; None: they are all there are."""
    of = store or menu
    profile = MachineProfile(
        schema_version=1,
        machine="fake",
        runtime="fake",
        workers=1,
        model_sha256={},
        latencies=tuple(choice.profile for choice in of.choices),
        decode=StageCost(fixed_ns=1 * MS, per_megapixel_ns=0),
        overhead_ns=0,
    )
    return Generation(version, menu, served(of), profile, workers)


def build_engine(
    *,
    menu: Menu | None = None,
    workers: FakeWorkers | None = None,
    decoder: FakeDecoder | None = None,
    instrument: Instrument | None = None,
    clock: Clock | None = None,
    worker_count: int = 1,
    queue_size_max: int = 64,
    admitted_max: int = 64,
    admitted_per_client_max: int = 64,
    queue_bytes_max: int = 2**30,
    store: Menu | None = None,
    overhead_ms: float = 0,
) -> Engine:
    """The real engine and scheduler over fake decode and runs; ready."""
    menu = menu or cpu_menu()
    engine = Engine(
        scheduler=scheduler(
            menu, workers=worker_count, queue_size_max=queue_size_max, overhead_ns=round(overhead_ms * MS)
        ),
        generation=generation(menu, workers or FakeWorkers(), store=store),
        decoder=decoder or FakeDecoder(),
        clock=clock or LoopClock(),
        instrument=instrument or Instrument(),
        settings=EngineSettings(
            budget_ns_default=1000 * MS,
            budget_ns_max=60_000 * MS,
            top_k_max=20,
            admitted_max=admitted_max,
            admitted_per_client_max=admitted_per_client_max,
            queue_bytes_max=queue_bytes_max,
        ),
    )
    engine.open()
    return engine
