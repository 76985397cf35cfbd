"""An execution provider: each variant at each batch size, what each choice is worth, and the real server on it.

Works on any machine: with onnxruntime-gpu and a graphics card it measures CUDA, with the CPU package the CPU. Lite
networks have their real weights, B networks seeded ones, which take as long. Writes `results/provider-<provider>.md`
after each part, so that what was measured is kept if the rest is not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import provider_runs, provider_serving
from benchmarks.network_family import FP16, build
from benchmarks.provider_document import Found, document
from benchmarks.provider_runs import AS_SERVED, GPU_WAYS
from benchmarks.provider_serving import AMPLE_MS, MIX_MS, Load
from benchmarks.server_process import serving
from model_store.catalogue import Catalogue
from service.runtime.providers import Provider, candidates
from service.runtime.session import Probabilities, available_providers, route_logs

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = tuple(sorted((ROOT / "tests" / "photographs").glob("*.jpg")))
MEMBERS = ("lite0", "b0", "b2", "b4", "b7")
CPU_BATCHES = (1, 2, 4, 8)
GPU_BATCHES = (1, 4, 16, 32)
WAY_BATCHES = (1, 32)
CONCURRENCIES = (1, 8, 64, 256)
PARTS = ("runs", "ways", "agreement", "serving")

Keep = Callable[[], None]


def main(argv: Sequence[str]) -> None:
    """`python -m benchmarks providers`; see `--help`."""
    options = _parser().parse_args(argv)
    route_logs()
    provider = candidates(Provider(options.provider), available_providers())[0]
    found = Found(provider, " ".join(["python -m benchmarks providers", *argv]))
    path = options.results / f"provider-{provider}.md"
    options.results.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        path.write_text(document(found))

    with tempfile.TemporaryDirectory(prefix="phiserve-providers-") as folder:
        options.store = options.store or Path(folder) / "store"
        catalogue = build(options.store, options.members)
        print(f"built {', '.join(catalogue.entries)}", flush=True)
        measures = {"runs": _runs, "ways": _ways, "agreement": _agreements, "serving": _serving}
        for part in options.parts:
            measures[part](catalogue, provider, options, found, keep)
    print(document(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks providers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns, to see that it works; figures are rough")
    parser.add_argument("--provider", default="auto", choices=[provider.value for provider in Provider])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure; default: all")
    parser.add_argument("--members", nargs="+", default=MEMBERS, help=f"networks; default: {' '.join(MEMBERS)}")
    parser.add_argument("--ways-of", nargs="+", default=("b0", "b0-fp16", "b4-fp16"), help="variants for `ways`")
    parser.add_argument("--workers", nargs="+", type=int, default=(1, 2), help="the server with so many workers each")
    parser.add_argument("--serve", nargs="+", default=(), help="variants of the server; default: all in fp16")
    parser.add_argument("--store", type=Path, help="where to build the networks, to use them again")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser


def _runs(catalogue: Catalogue, provider: Provider, options: argparse.Namespace, found: Found, keep: Keep) -> None:
    seconds = 0.05 if options.quick else 0.3
    for entry in catalogue.entries.values():
        sizes = CPU_BATCHES if provider.on_cpu else GPU_BATCHES
        found.runs.append(provider_runs.measure(entry, provider, sizes, AS_SERVED, seconds))
        print(found.runs[-1], flush=True)
        keep()


def _ways(catalogue: Catalogue, provider: Provider, options: argparse.Namespace, found: Found, keep: Keep) -> None:
    seconds = 0.05 if options.quick else 0.3
    sizes = (1, CPU_BATCHES[-1]) if provider.on_cpu else WAY_BATCHES
    for name in options.ways_of:
        entry = catalogue.entries[name]
        # As served twice: what lies between the two is noise.
        for way in (AS_SERVED, *(GPU_WAYS if provider.fixed_batches else ()), AS_SERVED):
            found.ways.append(provider_runs.measure(entry, provider, sizes, way, seconds))
            print(found.ways[-1], flush=True)
            keep()


def _agreements(catalogue: Catalogue, provider: Provider, _: argparse.Namespace, found: Found, keep: Keep) -> None:
    exact: dict[str, Probabilities] = {}
    for name, entry in catalogue.entries.items():
        member = entry.variant.member
        if member not in exact:
            reference = catalogue.entries[member]
            exact[member] = provider_runs.answers(reference, Provider.CPU, PHOTOGRAPHS)
        answers = provider_runs.answers(entry, provider, PHOTOGRAPHS)
        found.agreements.append(provider_runs.compare(name, exact[member], answers))
        print(found.agreements[-1], flush=True)
        keep()


def _serving(catalogue: Catalogue, provider: Provider, options: argparse.Namespace, found: Found, keep: Keep) -> None:
    seconds = 1.0 if options.quick else 4.0
    names = list(options.serve) or [name for name in catalogue.entries if name.endswith(FP16) == provider.fixed_batches]
    smallest, largest = names[0], names[-1]
    loads = [Load(concurrency, MIX_MS) for concurrency in CONCURRENCIES]
    loads += [Load(CONCURRENCIES[-1], AMPLE_MS, pinned) for pinned in (smallest, largest)]
    for workers in options.workers:
        # All callers come from one address.
        flags = ("--provider", provider, "--allow-untrained", f"--workers={workers}", "--admitted-per-client-max=1024")
        began_s = time.monotonic()
        with serving(options.store, names, *flags) as server:
            ready_s = time.monotonic() - began_s
            title = f"{workers} worker{'s' if workers > 1 else ''}, ready after {ready_s:.0f} s"
            served = found.served.setdefault(title, [])
            for load in loads:
                served.append(provider_serving.run(server, load, PHOTOGRAPHS, seconds))
                print(title, load, f"{served[-1].per_s:.0f}/s", flush=True)
                keep()
