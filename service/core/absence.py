"""A request that nothing loaded may answer waits for a variant that may, and passes the door anew.

Counts its wait in its budget. What is loaded, and what has to go for it, is decided elsewhere.
"""

from __future__ import annotations

import asyncio

from service.core.door import Admitted, DecodeCost, Door, too_late
from service.core.ports import Absentees
from service.core.request import OnMiss

NS_PER_S = 1_000_000_000


async def presence(door: Door, decode: DecodeCost, absentees: Absentees, admitted: Admitted, now_ns: int) -> None:
    """Return when a variant is loaded that the policy of `admitted` allows.

    Others have come in meanwhile, and the time has gone on: so it is judged by what there is then, as at the door.

    Raises:
        PhiserveError: the reason why it is not served, with what would have worked.
    """
    policy = admitted.options.policy
    patience_ns = None if policy.on_miss is OnMiss.LATE else max(0, admitted.deadline_ns - now_ns)
    try:
        async with asyncio.timeout(None if patience_ns is None else patience_ns / NS_PER_S):
            await absentees.bring_in(policy)
    except TimeoutError:
        needed_ns = admitted.deadline_ns - admitted.received_ns + decode.cost_ns(admitted.header, 0.0)
        needed_ns += door.wait_ns(policy, admitted.deadline_ns) or 0
        raise too_late("the budget ran out while a variant that may answer was loaded", needed_ns) from None
    door.judge_time(admitted.header, policy, admitted.received_ns, admitted.deadline_ns)
