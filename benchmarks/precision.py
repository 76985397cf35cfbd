"""Each variant in each precision on each execution provider: how right, how quick, and which are worth having.

Providers run in processes of their own, OpenVINO's in an environment of its own that is made when it is missing, and
take turns with every burst of runs: the machine's noise hits all alike, so ratios are steadier than times. With
`--photographs` each is judged on them; without, accuracy is what the committed ranges state. bf16 that nothing here can
compute is judged by rounding, and has no time. Builds its store in a temporary folder. Writes `results/precision.md`
and, with photographs, `precision.svg`. Measures networks only: no decode, no server.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import openvino_environment
from benchmarks.network_family import noise
from benchmarks.precision_document import Found, Shape, Way, document, plot, score
from benchmarks.precision_side import Side
from model_store.activation_ranges import committed_ranges
from model_store.builder import BuildRequest, Quantisation, build_store
from model_store.catalogue import Catalogue
from model_store.manifest import ModelVariant
from model_store.sources import from_wheel
from service.evaluation import LabelledPhotograph, list_photographs
from service.runtime.decode import decode_rgb
from service.runtime.image_header import PIXELS_MAX_LIMIT, silence_pillow_warnings
from service.runtime.machine import available_cores
from service.runtime.preprocess import preprocess, shorter_side_px
from service.runtime.providers import Provider
from service.runtime.rgb_image import Pixels

MEMBERS = ("lite0", "lite1", "lite2", "b0")
SHAPES = (Shape(1, 1), Shape(2, 1), Shape(1, 8))
PROVIDERS = (Provider.CPU, Provider.OPENVINO)
INT8, BF16 = "-int8", "-bf16"


def build(root: Path, members: Sequence[str]) -> Catalogue:
    """Each of `members` in fp32, in bf16, and in int8 where ranges are committed; those without a wheel are noise."""
    requests = []
    for member in members:
        source = from_wheel(member) if member.startswith("lite") else noise(member)
        requests += [BuildRequest(member, source), BuildRequest(member + BF16, source, float_type="bf16")]
        if (ranges := committed_ranges(member)) is not None:
            requests.append(BuildRequest(member + INT8, source, Quantisation(ranges)))
    build_store(root, requests)
    return Catalogue.open(root)


def time_all(sides: Sequence[Side], variants: Sequence[str], shape: Shape, rounds: int) -> dict[Way, list[float]]:
    """For each variant on each side that runs it the median of each of `rounds` bursts, all in turns."""
    ways = [(Way(name, side.provider), side) for name in variants for side in sides if name not in side.refused]
    took_ms: dict[Way, list[float]] = {way: [] for way, _ in ways}
    for turn in range(rounds):
        # Back and forth, so that no one always follows the same other.
        for way, side in ways if turn % 2 else reversed(ways):
            burst = side.time_ms(way.variant, shape.threads, shape.batch_size, 3 if shape.batch_size == 1 else 1)
            took_ms[way].append(float(np.median(burst)))
    return took_ms


def crops(photographs: Sequence[LabelledPhotograph], variant: ModelVariant) -> Pixels:
    """Every photograph as `variant` sees it."""
    batch = np.empty((len(photographs), variant.resolution, variant.resolution, 3), np.uint8)

    def one(index: int) -> None:
        data = photographs[index].path.read_bytes()
        preprocess(decode_rgb(data, shorter_side_px(variant), PIXELS_MAX_LIMIT), variant, batch[index])

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(one, range(len(photographs))))
    return batch


def judge_all(
    sides: Sequence[Side], catalogue: Catalogue, folder: Path, photographs: Sequence[LabelledPhotograph]
) -> Found:
    """How right every trained variant is, all sides at once: times do not count here."""
    classes = [photograph.class_index for photograph in photographs]
    trained = {name: entry.variant for name, entry in catalogue.entries.items() if entry.variant.trained}
    files = {}
    for variant in trained.values():
        if variant.member not in files:
            files[variant.member] = folder / f"{variant.member}.npy"
            np.save(files[variant.member], crops(photographs, variant))

    def of(side: Side) -> dict[Way, np.ndarray]:
        found = {
            Way(name, side.provider): side.judge(name, files[variant.member])
            for name, variant in trained.items()
            if name not in side.refused
        }
        if side is sides[0]:
            # Nowhere here, so in numbers alone.
            nowhere = [name for name in trained if all(name in other.refused for other in sides)]
            found |= {Way(name, None): side.judge(name, files[trained[name].member], rounded=True) for name in nowhere}
        return found

    with ThreadPoolExecutor(len(sides)) as pool:
        answers = {way: found for part in pool.map(of, sides) for way, found in part.items()}
    return {
        way: score(found, answers[Way(trained[way.variant].member, sides[0].provider)], classes)
        for way, found in answers.items()
    }


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks precision`; see `--help`."""
    options = _parser().parse_args(argv)
    silence_pillow_warnings()
    photographs = list_photographs(options.photographs) if options.photographs else []
    command = "python -m benchmarks precision" + (" --quick" if options.quick else "")
    command += " --photographs DIR" if photographs else ""
    with tempfile.TemporaryDirectory(prefix="phiserve-precision-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        catalogue = build(folder / "store", options.members)
        sides = [stack.enter_context(side) for side in _sides(options.providers, folder / "store")]
        found = judge_all(sides, catalogue, folder, photographs) if photographs else {}
        rounds = 2 if options.quick else 30
        names = list(catalogue.entries)
        took_ms = {
            shape: time_all(sides, names, shape, rounds // (1 if shape.batch_size == 1 else 3) + 1)
            for shape in options.shapes
        }
        runtimes = {side.provider: side.runtime for side in sides}
    options.results.mkdir(parents=True, exist_ok=True)
    text = document(catalogue, runtimes, found, took_ms, command=command, photographs=len(photographs))
    print(text)
    (options.results / "precision.md").write_text(text)
    if photographs:
        plot(options.results / "precision.svg", found, took_ms[options.shapes[0]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks precision", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works; figures are rough")
    parser.add_argument(
        "--photographs", type=Path, metavar="DIR", help="labelled ones, named NNN_name.jpg by class index"
    )
    parser.add_argument("--members", nargs="+", default=MEMBERS, help=f"networks; default: {' '.join(MEMBERS)}")
    parser.add_argument("--providers", nargs="+", default=PROVIDERS, type=Provider, choices=PROVIDERS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    parser.set_defaults(shapes=SHAPES)
    return parser


def _sides(providers: Sequence[Provider], store: Path) -> list[Side]:
    """A process for each of `providers`; without OpenVINO's where it cannot be installed."""
    sides = []
    for provider in providers:
        try:
            python = openvino_environment.python() if provider is Provider.OPENVINO else Path(sys.executable)
        except openvino_environment.EnvironmentFailed as error:
            print(f"left out, since it cannot be installed: {provider}: {error}", file=sys.stderr)
            continue
        sides.append(Side(python, provider, store))
    return sides
