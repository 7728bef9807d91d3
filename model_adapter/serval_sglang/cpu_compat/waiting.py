"""How processes of a CPU engine wait for requests: attention DP polls in one place, oversleeps in another."""

from typing import Any

# Also how often at least the controller feeds its watchdog.
_PERIOD_MS = 50
# SGLang's own, where a request wakes whoever has to work.
_LONG_PERIOD_MS = 1000


def pass_requests_on(controller: Any) -> None:
    """Run the event loop of attention DP's controller, without the polling that takes a core."""
    from sglang.srt.managers.io_struct import sock_recv

    while True:
        controller.soft_watchdog.feed()
        if controller.recv_from_tokenizer.poll(_PERIOD_MS):
            controller._request_dispatcher(sock_recv(controller.recv_from_tokenizer))


def sleep_until_request(sleeper: Any) -> None:
    """Put an idle scheduler to sleep until its next request, briefly if other ranks may have to wait for it.

    With attention DP a request wakes one rank, whose first step waits for all others. Upstream's method also
    empties the device's memory cache now and then; a CPU has none.
    """
    from sglang.srt.runtime_context import get_parallel

    sleeper.poller.poll(_PERIOD_MS if get_parallel().num_dp_ranks > 1 else _LONG_PERIOD_MS)


REPLACED = {
    "sglang.srt.managers.data_parallel_controller.DataParallelController.event_loop": pass_requests_on,
    "sglang.srt.managers.scheduler_components.idle_sleeper.IdleSleeper.maybe_sleep": sleep_until_request,
}
