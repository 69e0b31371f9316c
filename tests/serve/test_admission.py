"""Large images share a budget of pixels: they wait, or are refused for a while, and small ones pass them by."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import psutil
import pytest
from PIL import Image
from running import Reply, ask, drawn, process, score, sent, wait_until

from landuse.core.errors import Unavailable
from landuse.ml.images import MAX_PIXELS, pixel_count
from landuse.serve import admission
from landuse.serve.admission import SMALL_PIXELS, Admission
from landuse.serve.predictor import Answers

LARGE = drawn("PNG", "L", (2000, 1001))
SMALL = drawn("PNG")


def test_large_images_are_admitted_in_order_as_far_as_their_pixels_go() -> None:
    shared, order = Admission(), []

    def enter(name: str, pixels: int) -> None:
        with shared.admit(pixels):
            order.append(name)

    with shared.admit(MAX_PIXELS - SMALL_PIXELS):
        threads = []
        for name, pixels in (("first", MAX_PIXELS), ("second", SMALL_PIXELS + 1)):  # the second waits for the first
            threads.append(Thread(target=enter, args=(name, pixels)))
            threads[-1].start()
            wait_until(lambda: len(shared.waiting) == len(threads))
        with shared.admit(SMALL_PIXELS):  # a small one for neither
            assert order == []
    for thread in threads:
        thread.join()
    assert order == ["first", "second"] and shared.pixels == MAX_PIXELS and not shared.waiting


def test_no_more_wait_than_there_are_places_nor_longer_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(admission, "MOST_WAITING", 1)
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


def test_whoever_waits_when_the_server_ends_is_told_at_once() -> None:
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


def test_the_header_tells_the_size_and_what_has_none_is_as_large_as_may_be() -> None:
    for content, pixels in ((LARGE, 2_002_000), (SMALL, 65_536), (LARGE[:60], 2_002_000), (b"", MAX_PIXELS)):
        assert pixel_count(BytesIO(content)) == pixels


def test_without_room_a_large_image_is_asked_to_come_again_and_a_small_one_is_answered(
    trained: Path, place: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.1)
    assert score(place, sent(LARGE)).status == ask(place, "/look", LARGE).status == 200
    with answers.admission.admit(MAX_PIXELS):
        for reply in (score(place, sent(SMALL), sent(LARGE)), ask(place, "/look", LARGE)):
            assert reply.status == 503 and reply.headers["retry-after"] == "5"
            assert reply.content["error_code"] == "TEMPORARILY_UNAVAILABLE" and "busy" in reply.content["message"]
        assert score(place, sent(SMALL)).status == ask(place, "/look", SMALL).status == 200
    assert score(place, sent(LARGE)).status == 200


def test_many_large_requests_leave_threads_to_small_ones(place: str, answers: Answers) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(40) as pool:
        stack.enter_context(answers.admission.admit(MAX_PIXELS))
        replies = [pool.submit(ask, place, "/look", LARGE) for _ in range(40)]
        wait_until(lambda: len(answers.admission.waiting) == admission.MOST_WAITING)
        assert score(place, sent(SMALL)).status == 200
        stack.close()
        statuses = [reply.result().status for reply in replies]
    assert statuses.count(200) >= admission.MOST_WAITING and set(statuses) <= {200, 503}


@pytest.mark.slow
def test_clients_of_huge_images_neither_take_all_memory_nor_starve_small_ones(served: Path) -> None:
    file = BytesIO()
    Image.new("RGBA", (10_000, 5_000), (9, 99, 9, 50)).save(file, "PNG")
    huge, small, peaks, waits = sent(file.getvalue()), sent(SMALL), [], []
    with process() as (server, place), ThreadPoolExecutor(3) as pool:
        score(place, small)
        asked: list = [pool.submit(score, place, huge) for _ in range(3)]
        while not all(reply.done() for reply in asked):
            start = monotonic()
            assert score(place, small).status == 200
            waits.append(monotonic() - start)
            peaks.append(psutil.Process(server.pid).memory_info().rss)
            sleep(0.02)
        replies: list[Reply] = [reply.result() for reply in asked]
        sleep(0.5)
        after = psutil.Process(server.pid).memory_info().rss
    assert {reply.status for reply in replies} <= {200, 503} and 200 in {reply.status for reply in replies}
    assert max(peaks) < 1.3e9 and after < 6e8 and sorted(waits)[len(waits) * 9 // 10] < 0.5
