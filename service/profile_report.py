"""What a machine's profile means, in sentences: which budgets get which variant, and what load the cores carry."""

from __future__ import annotations

from collections.abc import Iterator

from model_store.latency_profile import MachineProfile
from service.core.menu import Menu
from service.core.request import DEFAULT_POLICY

NS_PER_MS = 1_000_000
PHOTOGRAPH_PIXELS = 1920 * 1080


def explain_menu(profile: MachineProfile, menu: Menu) -> Iterator[str]:
    """Lines for `phiserve profile --explain`; latencies in ms, rates in images a second."""
    decode_ns = profile.decode.cost_ns(PHOTOGRAPH_PIXELS)
    around_ns = decode_ns + profile.overhead_ns
    yield (
        f"Around each run: decoding a 1080p photograph takes about {decode_ns / NS_PER_MS:.1f} ms, "
        f"everything else {profile.overhead_ns / NS_PER_MS:.1f} ms."
    )
    steps: dict[str, int] = {}
    for choice in sorted(menu.choices, key=lambda c: c.latency_ns(1)):
        needed_ns = around_ns + choice.latency_ns(1)
        best = menu.best_within(choice.latency_ns(1), DEFAULT_POLICY)
        if best is not None:
            steps.setdefault(best.variant.name, needed_ns)
    for name, needed_ns in steps.items():
        yield f"Idle, a budget of {needed_ns / NS_PER_MS:.1f} ms or more gets {name}, until a larger one fits."
    for choice in menu.choices:
        rate = profile.workers * 1e9 / choice.core_ns_per_image
        batch = choice.batch_sizes[-1]
        yield (
            f"{choice.variant.name} on {choice.threads} thread(s), batch {batch}: at most {rate:.0f} images a second "
            f"on {profile.workers} worker(s)."
        )
    sizes = {choice.batch_sizes for choice in menu.choices}
    if sizes == {(1,)}:
        yield "Batches save no time here, so none are formed: a run is one image."
