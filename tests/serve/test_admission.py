"""Large images share a pixel budget: they wait or are refused temporarily, and small ones do not wait for them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import psutil
import pytest
from PIL import Image
from running import Reply, as_base64, fetch, gradient, score, serve_process, wait_until

from landuse.core.errors import Unavailable
from landuse.ml.images import MAX_PIXELS, pixel_count
from landuse.serve import admission
from landuse.serve.admission import SMALL_PIXELS, Admission
from landuse.serve.predictor import Predictor

LARGE = gradient("PNG", "L", (2000, 1001))
SMALL = gradient("PNG")


def test_large_images_are_admitted_in_order_within_the_pixel_budget() -> None:
    shared, order = Admission(), []

    def enter(name: str, pixels: int) -> None:
        with shared.admit(pixels):
            order.append(name)

    with shared.admit(MAX_PIXELS - 2 * SMALL_PIXELS):
        threads = []
        # there is room for the second, but it waits behind the first
        for name, pixels in (("first", MAX_PIXELS), ("second", SMALL_PIXELS + 1)):
            threads.append(Thread(target=enter, args=(name, pixels)))
            threads[-1].start()
            wait_until(lambda: len(shared.waiting) == len(threads))
        with shared.admit(SMALL_PIXELS):  # a small image waits for neither
            assert order == []
    for thread in threads:
        thread.join()
    assert order == ["first", "second"] and shared.free_pixels == MAX_PIXELS and not shared.waiting


def test_the_queue_and_the_waiting_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(admission, "MAX_WAITING", 1)
    shared = Admission()

    def wait() -> float:
        start = monotonic()
        with pytest.raises(Unavailable, match="busy with other large images"), shared.admit(MAX_PIXELS):
            pass
        return monotonic() - start

    with shared.admit(MAX_PIXELS), ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait)
        wait_until(lambda: shared.waiting)
        assert wait() < 0.2 and waiting.result() > 0.2
    with shared.admit(MAX_PIXELS):
        pass


def test_waiting_images_are_refused_when_the_server_shuts_down() -> None:
    shared = Admission()

    def wait() -> None:
        with shared.admit(MAX_PIXELS):
            pass

    with shared.admit(MAX_PIXELS), ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait)
        wait_until(lambda: shared.waiting)
        shared.close()
        with pytest.raises(Unavailable, match="shutting down"):
            waiting.result(5)
    with pytest.raises(Unavailable), shared.admit(1):
        pass


def test_the_header_gives_the_size_and_a_file_without_one_counts_as_the_largest() -> None:
    for content, pixels in ((LARGE, 2_002_000), (SMALL, 65_536), (LARGE[:60], 2_002_000), (b"", MAX_PIXELS)):
        assert pixel_count(BytesIO(content)) == pixels


def test_at_capacity_large_images_get_503_and_small_ones_are_still_answered(
    trained: Path, url: str, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.1)
    assert score(url, as_base64(LARGE)).status == fetch(url, "/predict", LARGE).status == 200
    with predictor.admission.admit(MAX_PIXELS):
        for reply in (score(url, as_base64(SMALL), as_base64(LARGE)), fetch(url, "/predict", LARGE)):
            assert reply.status == 503 and reply.headers["retry-after"] == "5"
            assert reply.content["error_code"] == "TEMPORARILY_UNAVAILABLE" and "busy" in reply.content["message"]
        assert score(url, as_base64(SMALL)).status == fetch(url, "/predict", SMALL).status == 200
    assert score(url, as_base64(LARGE)).status == 200


def test_many_large_requests_leave_threads_for_small_ones(url: str, predictor: Predictor) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(40) as pool:
        stack.enter_context(predictor.admission.admit(MAX_PIXELS))
        replies = [pool.submit(fetch, url, "/predict", LARGE) for _ in range(40)]
        wait_until(lambda: len(predictor.admission.waiting) == admission.MAX_WAITING)
        assert score(url, as_base64(SMALL)).status == 200
        stack.close()
        statuses = [reply.result().status for reply in replies]
    assert statuses.count(200) >= admission.MAX_WAITING and set(statuses) <= {200, 503}


@pytest.mark.slow
def test_huge_images_neither_exhaust_memory_nor_starve_small_ones(served: Path) -> None:
    file = BytesIO()
    Image.new("RGBA", (10_000, 5_000), (9, 99, 9, 50)).save(file, "PNG")
    huge, small, peaks, latencies = as_base64(file.getvalue()), as_base64(SMALL), [], []
    with serve_process() as (server, url), ThreadPoolExecutor(3) as pool:
        score(url, small)
        pending: list = [pool.submit(score, url, huge) for _ in range(3)]
        while not all(reply.done() for reply in pending):
            start = monotonic()
            assert score(url, small).status == 200
            latencies.append(monotonic() - start)
            peaks.append(psutil.Process(server.pid).memory_info().rss)
            sleep(0.02)
        replies: list[Reply] = [reply.result() for reply in pending]
        sleep(0.5)
        after = psutil.Process(server.pid).memory_info().rss
    assert {reply.status for reply in replies} <= {200, 503} and 200 in {reply.status for reply in replies}
    assert max(peaks) < 1.3e9 and after < 6e8 and sorted(latencies)[len(latencies) * 9 // 10] < 0.5
